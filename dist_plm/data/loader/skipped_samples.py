"""Tells which samples a run takes that leaves some out: still a function of sample numbers alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SkippedSamples:
    """Numbers of samples that are never learned from, as ranges [first, stop).

    The samples that remain are counted in order: the one at place p is the p-th of them. A run without skipped samples takes
    sample p at place p.

    Args:
        ranges: in order, none of which touches another (see `of`).
    """

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, ranges: Iterable[Sequence[int]]) -> "SkippedSamples":
        """Joins ranges that may overlap, in any order."""
        joined: list[tuple[int, int]] = []
        for first, stop in sorted((int(first), int(stop)) for first, stop in ranges):
            if joined and first <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
            elif first < stop:
                joined.append((first, stop))
        return cls(tuple(joined))

    def numbers(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Gives the numbers of the samples at these places."""
        if not self.ranges:
            return places
        firsts, stops = np.array(self.ranges, dtype=np.int64).T
        skipped = np.concatenate([[0], np.cumsum(stops - firsts)])
        # The place of the first sample after each range is where the range would have begun.
        return places + skipped[np.searchsorted(firsts - skipped[:-1], places, side="right")]

    def span(self, first: int, count: int) -> tuple[int, int]:
        """Gives the numbers of the first and the last of `count` samples, which begin at place `first`."""
        start, end = self.numbers(np.array([first, first + count - 1], dtype=np.int64)).tolist()
        return start, end

    def runs(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Gives the numbers of the samples at places `first` to before `stop`, as ranges in order."""
        if first >= stop:
            return []
        start, end = self.numbers(np.array([first, stop - 1], dtype=np.int64)).tolist()
        found = []
        for skipped, after in self.ranges:
            if start < skipped <= end:
                found.append((start, skipped))
                start = after
        return [*found, (start, end + 1)]
