"""Chooses the window of the data that sample n reads: a pure function of (number of windows, seed, n), in constant memory.

Two tools are enough. `mix` is a counter-based hash: it turns a tuple of integers into 64 random-looking bits without
any state. `permute` is a keyed bijection on [0, length) for any length, computed for one index at a time.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dist_plm.core.randomness.splitmix import GOLDEN, MASK, finalise, finalise_many

#: Rounds of the Feistel network. Tiny domains need many before all permutations are equally likely: measured over all
#: permutations of 2 to 6 elements, 8 rounds are visibly uneven and 16 are not.
_ROUNDS = 16
_EPOCH_KEY = 0x65706F6368  # separates the keys of epochs from every other use of the same seed
_GROUP_KEY = 0x67726F7570


def mix(*values: int) -> int:
    """Hashes integers (taken modulo 2^64, their order matters) to a 64-bit unsigned integer.

    Each value is absorbed by the finaliser of SplitMix64 (Steele, Lea & Flood, "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014, fig. 17).
    """
    state = GOLDEN
    for value in values:
        state = finalise(((state + GOLDEN) & MASK) ^ finalise(value & MASK))
    return state


def mix_many(*values: ArrayLike) -> NDArray[np.uint64]:
    """`mix` over broadcast integer arrays: element i is `mix` of the i-th elements."""
    values = tuple(values)
    leading = next((i for i, value in enumerate(values) if not isinstance(value, int)), len(values))
    absorbed = mix(*(value for value in values[:leading] if isinstance(value, int)))
    state = np.full((), absorbed, np.uint64)
    with np.errstate(over="ignore"):
        for value in values[leading:]:
            state = finalise_many((state + np.uint64(GOLDEN)) ^ finalise_many(_as_uint64(value)))
    return np.asarray(state)


def permute(index: int, length: int, key: int) -> int:
    """Where `index` goes under the permutation of [0, length) that `key` chooses. Every length from 1 to 2^63.

    A Feistel network over mixed radices with cycle walking (Black & Rogaway, "Ciphers with Arbitrary Finite Domains",
    CT-RSA 2002, sections 3 and 4): the domain a x b has a = ceil(sqrt(length)), so it exceeds length by less than a
    and walking is rare.
    """
    assert 0 <= index < length, f"index {index} outside [0, {length})"
    a, b = _radices(length)
    keys = _round_keys(key)
    while True:
        left, right = index % a, index // a
        for i in range(0, _ROUNDS, 2):
            left = (left + finalise(right ^ keys[i]) % a) % a
            right = (right + finalise(left ^ keys[i + 1]) % b) % b
        index = left + a * right
        if index < length:
            return index


def permute_many(indices: ArrayLike, length: int, key: int) -> NDArray[np.int64]:
    """`permute` of every element of `indices`; the result has their shape."""
    indices = np.asarray(indices, dtype=np.int64)
    assert indices.size == 0 or (indices.min() >= 0 and indices.max() < length), f"indices outside [0, {length})"
    state = indices.astype(np.uint64).reshape(-1)
    pending = np.arange(state.size)
    while pending.size:
        state[pending] = _feistel_many(state[pending], length, key)
        pending = pending[state[pending] >= length]
    return state.astype(np.int64).reshape(indices.shape)


def window_of(sample: int, num_windows: int, seed: int) -> int:
    """The window in [0, num_windows) that sample number `sample` >= 0 reads.

    Each run of `num_windows` samples is an epoch: it reads every window once, in an order of its own.
    """
    epoch, index = divmod(sample, num_windows)
    return permute(index, num_windows, mix(_EPOCH_KEY, seed, epoch))


def windows_of(samples: ArrayLike, num_windows: int, seed: int) -> NDArray[np.int64]:
    """`window_of` for an array of samples; the result has its shape."""
    samples = np.asarray(samples, dtype=np.int64)
    epochs, indices = np.divmod(samples, num_windows)
    windows = np.empty_like(samples)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        windows[chosen] = permute_many(indices[chosen], num_windows, mix(_EPOCH_KEY, seed, int(epoch)))
    return windows


def grouped(
    samples: ArrayLike, num_blocks: int, rows: int, group: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Blocks [B], and rows in [0, rows) of them [B], that samples read: every row of every block once an epoch, blocks in
    an order of its own, the rows of `group` blocks shuffled together, so that few blocks are in use at a time."""
    samples = np.asarray(samples, dtype=np.int64)
    epochs, indices = np.divmod(samples, num_blocks * rows)
    slots, found = np.empty_like(samples), np.empty_like(samples)
    for epoch in np.unique(epochs):
        for number in np.unique(indices[epochs == epoch] // (group * rows)):
            chosen = (epochs == epoch) & (indices // (group * rows) == number)
            size = min(group, num_blocks - number * group)
            within = indices[chosen] - number * group * rows
            within = permute_many(within, int(size) * rows, mix(_GROUP_KEY, seed, int(epoch), int(number)))
            slots[chosen], found[chosen] = number * group + within // rows, within % rows
    blocks = np.empty_like(samples)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        blocks[chosen] = permute_many(slots[chosen], num_blocks, mix(_EPOCH_KEY, seed, int(epoch)))
    return blocks, found


def generator(seed: int, sample: int, *purpose: int) -> np.random.Generator:
    """A counter-based generator (Philox: Salmon et al., SC 2011) of one sample and, optionally, purpose."""
    return np.random.Generator(np.random.Philox(key=mix(seed, sample, *purpose)))


def _radices(length: int) -> tuple[int, int]:
    a = math.isqrt(length - 1) + 1
    return a, -(-length // a)


def _round_keys(key: int) -> list[int]:
    return [mix(key, i) for i in range(_ROUNDS)]


@lru_cache(maxsize=256)  # an epoch has one key: a fifth of the time of a small batch
def _round_keys_64(key: int) -> tuple[np.uint64, ...]:
    return tuple(np.uint64(k) for k in _round_keys(key))


def _feistel_many(state: NDArray[np.uint64], length: int, key: int) -> NDArray[np.uint64]:
    a, b = (np.uint64(radix) for radix in _radices(length))
    keys = _round_keys_64(key)
    left, right = state % a, state // a
    for i in range(0, _ROUNDS, 2):
        left += finalise_many(right ^ keys[i]) % a
        left %= a
        right += finalise_many(left ^ keys[i + 1]) % b
        right %= b
    return left + a * right


def _as_uint64(value: ArrayLike) -> NDArray[np.uint64]:
    if isinstance(value, int):
        return np.asarray(value & MASK, dtype=np.uint64)
    array = np.asarray(value)
    assert array.dtype.kind in "iu", f"integers are hashed, not {array.dtype}"
    return array.astype(np.uint64)
