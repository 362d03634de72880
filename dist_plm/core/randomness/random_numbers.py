"""Random numbers that are a pure function of (seed, sample, purpose, counter), for a whole microbatch at once.

The stream of a key is SplitMix64 (Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014,
figure 17), which is counter-based: its i-th number is a hash of key + i * GOLDEN. No sample therefore depends on which
others share its microbatch, and any number is drawn without those before it. What a run draws by name (initial weights) is
keyed by that name, so that no random state is kept.
"""

import hashlib
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.randomness.splitmix import GOLDEN, MASK, finalise, finalise_many


class Purpose(IntEnum):
    """Names what a draw decides; part of its key, so the numbers are fixed for ever."""

    CHOICE = 0
    COUNT = 1
    ACTION = 2
    REPLACEMENT = 3
    SPAN_LENGTH = 4
    TURN = 5
    TARGET_LENGTH = 6
    SPLIT = 7
    NEGATIVE = 8
    CUT_FIRST = 9
    CUT_SECOND = 10
    NOISE = 11
    KEPT = 12
    MIDDLE = 13
    TOKEN = 14
    WORD_GONE = 15
    WORD_MOVES = 16
    WORD_ORDER = 17
    WORD_MASKED = 18


def keys(seed: int, samples: NDArray[np.int64], purpose: Purpose) -> NDArray[np.uint64]:
    """One key for each of `samples` [B]; different seeds, samples and purposes give unrelated keys."""
    state = _state(seed & MASK, int(purpose))
    return finalise_many(samples.astype(np.uint64) * np.uint64(GOLDEN) + state)


def bits(keys: NDArray[np.uint64], counters: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Uniform 64-bit numbers: number `counters` >= 0 of the streams of `keys`, which broadcast against each other."""
    numbers = counters.astype(np.uint64)
    numbers += np.uint64(1)
    numbers *= np.uint64(GOLDEN)
    return finalise_many(numbers + keys)


def grid(keys: NDArray[np.uint64], width: int) -> NDArray[np.uint64]:
    """[B, width]: the first `width` numbers of the streams of keys [B]."""
    return bits(keys[:, None], np.arange(width))


def single(seed: int, samples: NDArray[np.int64], purpose: Purpose) -> NDArray[np.uint64]:
    """[B]: one number for each of `samples` [B]."""
    return bits(keys(seed, samples, purpose), np.zeros(1, dtype=np.int64))


def uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Multiples of 2^-53 in [0, 1)."""
    return (bits >> np.uint64(11)) * np.float64(2.0**-53)


def below(bits: NDArray[np.uint64], bound: int | NDArray[np.integer]) -> NDArray[np.int64]:
    """Integers in [0, bound), of which no two are more than bound / 2^32 apart in relative frequency.

    Args:
        bound: from 1 to 2^31, one for all or one for each.
    """
    return ((bits >> np.uint64(32)) * np.asarray(bound).astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def half_binomial(keys: NDArray[np.uint64], trials: NDArray[np.integer]) -> NDArray[np.int64]:
    """How often heads came up in `trials` [B] >= 0 tosses of a fair coin, [B]."""
    words = grid(keys, max(1, -(-int(trials.max(initial=0)) // 64)))
    tosses = np.clip(trials[:, None] - 64 * np.arange(words.shape[1]), 0, 64).astype(np.uint64)
    # A shift by 64 is undefined, hence two steps: the lowest `tosses` bits of each word remain.
    shift = np.uint64(64) - tosses
    words = (words << (shift >> np.uint64(1))) << (shift - (shift >> np.uint64(1)))
    return np.bitwise_count(words).sum(axis=1, dtype=np.int64)


def choose(keys: NDArray[np.uint64], eligible: NDArray[np.bool_], count: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Marks `count` [B] of each row's `eligible` [B, N], every subset as likely as any other. N is at most 2^20.

    Those with the smallest numbers are marked. Their lowest bits give way to the column, so that none tie.
    """
    assert eligible.shape[1] <= 2**20, f"{eligible.shape[1]} columns"
    if eligible.size == 0:
        return eligible
    numbers = grid(keys, eligible.shape[1])
    numbers &= np.uint64(MASK - (2**20 - 1))
    numbers |= np.arange(eligible.shape[1], dtype=np.uint64)
    np.putmask(numbers, ~eligible, np.uint64(MASK))
    last = np.take_along_axis(np.sort(numbers, axis=1), np.maximum(count - 1, 0)[:, None], axis=1)
    chosen = numbers <= last
    chosen &= eligible
    chosen &= (count > 0)[:, None]
    return chosen


@lru_cache(maxsize=256)  # a run has one seed: a tenth of the time of a small batch
def _state(seed: int, purpose: int) -> np.uint64:
    return np.uint64(finalise(finalise(seed) ^ purpose))


def key(*parts: int | str) -> int:
    """A seed of 63 bits that depends on all of `parts` and their order, the same in every process and version.

    BLAKE2b (RFC 7693) of an encoding in which no two sequences of parts are alike.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = str(part).encode()
        digest.update(b"%c%d:%b" % (b"i" if isinstance(part, int) else b"s", len(text), text))
    return int.from_bytes(digest.digest(), "big") >> 1
