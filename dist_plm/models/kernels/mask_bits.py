"""The random bits of dropout on the CPU: a counter-based hash of (key, row, column), the integers of the Triton kernels.

A row has two words of 32 bits, cut from number `row` of the SplitMix64 stream of its key. They start and step a Weyl
sequence over the row's pairs of columns, whose members a bijection of 32 bits scrambles (lowbias32: Wellons 2018,
"Prospecting for Hash Functions"). Each half of a word decides of one column.

NumPy, because PyTorch has no unsigned integers here and shifts ten times slower.
"""

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.random_numbers import bits

#: Probabilities are multiples of 1 / LEVELS.
LEVELS = 2**16
#: Words that stay in a core's cache while they are scrambled.
BLOCK_WORDS = 2**15
_SHIFTS = (np.uint32(16), np.uint32(15), np.uint32(16))
_FACTORS = (np.uint32(0x7FEB352D), np.uint32(0x846CA68B))


def threshold_of(probability: float) -> int:
    """Counts how many of the LEVELS drop an element."""
    return min(round(probability * LEVELS), LEVELS - 1)


def row_words(keys: NDArray[np.uint64], rows: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Draws the start (low half) and the odd step (high half) of rows; keys and rows broadcast against each other."""
    words = bits(keys, rows)
    words |= np.uint64(1 << 32)
    return words


def kept(words: NDArray[np.uint64], width: int, probability: float) -> NDArray[np.bool_]:
    """Tells which elements of N rows stay, [N, width].

    Args:
        words: [N], see `row_words`.
    """
    halves = words.view(np.uint32).reshape(-1, 2)
    scrambled = np.arange(-(-width // 2), dtype=np.uint32) * halves[:, 1:]
    scrambled += halves[:, :1]
    shifted = np.empty_like(scrambled)
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        scrambled ^= np.right_shift(scrambled, shift, out=shifted)
        scrambled *= factor
    scrambled ^= np.right_shift(scrambled, _SHIFTS[2], out=shifted)
    # Compared as signed numbers, as the kernels do.
    level = np.int16(threshold_of(probability) - LEVELS // 2)
    return scrambled.view(np.int16)[:, :width] >= level


def blocks(rows: int, width: int) -> list[slice]:
    """Cuts rows of `width` elements so that the words of each block stay in a core's cache."""
    step = max(1, 2 * BLOCK_WORDS // width)
    return [slice(first, first + step) for first in range(0, rows, step)]
