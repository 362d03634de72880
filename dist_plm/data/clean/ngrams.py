"""Runs of words that come again in a text, found over numbers in place of words: exact, as each word has its own."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Recurring(NamedTuple):
    """The n-grams that occur twice or more often, by where they begin, ascending.

    Args:
        starts: the words that one begins with, [G].
        numbers: equal for equal n-grams, [G].
        counts: how often each occurs, [G].
        is_first: whether it is the first of its equals, [G].
    """

    starts: NDArray[np.int64]
    numbers: NDArray[np.int64]
    counts: NDArray[np.int64]
    is_first: NDArray[np.bool_]


class NGrams:
    """The n-grams of a text's words."""

    def __init__(self, words: Sequence[str]) -> None:
        first: dict[str, int] = {}
        self._words = np.array(list(map(first.setdefault, words, range(len(words)))), np.int64)
        self._chars = np.array(list(map(len, words)), np.int64)
        self._found: list[Recurring] = []

    @cached_property
    def num_chars(self) -> int:
        return int(self._chars.sum())

    def recurring(self, n: int) -> Recurring:
        """Finds the n-grams that recur: one can only where its first n - 1 words do."""
        while len(self._found) < n:
            self._found.append(self._next())
        return self._found[n - 1]

    def _next(self) -> Recurring:
        length = len(self._found) + 1
        if length == 1:
            starts, keys = np.arange(len(self._words)), self._words
        else:
            shorter = self._found[-1]
            inside = shorter.starts + length <= len(self._words)
            starts = shorter.starts[inside]
            keys = shorter.numbers[inside] * len(self._words) + self._words[starts + length - 1]
        _, firsts, numbers, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        is_first = np.zeros(len(starts), bool)
        is_first[firsts] = True
        counts = counts[numbers]
        recurs = counts > 1
        return Recurring(starts[recurs], numbers[recurs], counts[recurs], is_first[recurs])

    def top_share(self, n: int) -> float:
        """The share of characters within the most frequent n-gram, where one occurs twice; of equals the longest."""
        found = self.recurring(n)
        if not len(found.starts):
            return 0.0
        most = int(found.counts.max())
        starts = found.starts[found.is_first & (found.counts == most)]
        longest = max(self._chars[start : start + n].sum() for start in starts)
        return most * int(longest) / self.num_chars

    def repeated_share(self, n: int) -> float:
        """The share of characters within n-grams that repeat an earlier one, each character counted once."""
        found = self.recurring(n)
        again = found.starts[~found.is_first]
        if not len(again):
            return 0.0
        changes = np.zeros(len(self._words) + 1, np.int64)
        changes[again] += 1
        changes[again + n] -= 1
        is_repeated = np.cumsum(changes)[:-1] > 0
        return int(self._chars[is_repeated].sum()) / self.num_chars
