"""Hashes integers as SplitMix64 finalises its states (Steele, Lea & Flood, "Fast Splittable Pseudorandom Number
Generators", OOPSLA 2014, figure 17): the one hash of numbers, behind permutations and random numbers alike."""

import numpy as np
from numpy.typing import NDArray

MASK = 2**64 - 1
#: 2^64 / golden ratio, the increment of SplitMix64.
GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_FACTORS = tuple(map(np.uint64, _MULTIPLIERS))
_SHIFTS = tuple(map(np.uint64, (30, 27, 31)))


def finalise(z: int) -> int:
    """Returns the hash of one integer in [0, 2^64)."""
    z = ((z ^ (z >> 30)) * _MULTIPLIERS[0]) & MASK
    z = ((z ^ (z >> 27)) * _MULTIPLIERS[1]) & MASK
    return z ^ (z >> 31)


def finalise_many(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Replaces each number by its hash, in place, with one array beside: new ones cost more than the arithmetic."""
    shifted = z >> _SHIFTS[0]
    z ^= shifted
    z *= _FACTORS[0]
    z ^= np.right_shift(z, _SHIFTS[1], out=shifted)
    z *= _FACTORS[1]
    z ^= np.right_shift(z, _SHIFTS[2], out=shifted)
    return z
