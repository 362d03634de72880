"""Finds ranks that are persistently slower than their peers. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from dist_plm.distributed.grid import Grid


def peers_of(grid: Grid) -> list[list[int]]:
    """Lists the ranks that do the same work: those of each pipeline stage."""
    stages: list[list[int]] = [[] for _ in range(grid.pipeline)]
    for rank in range(grid.size):
        stages[grid.coordinates(rank).pipeline].append(rank)
    return stages


def ratios(own: Sequence[float], peers: Sequence[Sequence[int]]) -> list[float]:
    """Gives each rank's own time by the median of its peers' times; 1 where it has none.

    Args:
        own: seconds a step of each rank, without what it waits for others.
    """
    found = [1.0] * len(own)
    for ranks in peers:
        by_time = sorted(ranks, key=own.__getitem__)
        seconds = [own[rank] for rank in by_time]
        for place, rank in enumerate(by_time):
            if len(seconds) > 1 and (middle := _median_of_others(seconds, place)) > 0:
                found[rank] = own[rank] / middle
    return found


def _median_of_others(ordered: Sequence[float], place: int) -> float:
    """Gives the median of all values but that at a place: those after it move up by one."""
    count = len(ordered) - 1
    below, above = (ordered[middle + (middle >= place)] for middle in ((count - 1) // 2, count // 2))
    return (below + above) / 2


@dataclass(slots=True)
class Stragglers:
    """Counts in how many intervals in a row each rank was slower than its peers.

    Args:
        share: by which a rank has to be slower than the median of the others.
        times: intervals in a row after which it counts as slow.
    """

    peers: Sequence[Sequence[int]]
    share: float
    times: int
    in_a_row: dict[int, int] = field(default_factory=dict)

    def note(self, own: Sequence[float]) -> dict[int, float]:
        """Takes note of an interval; gives the ranks that are slow by now, and how many times as long they take."""
        if self.share == 0:
            return {}
        found = {rank: ratio for rank, ratio in enumerate(ratios(own, self.peers)) if ratio > 1 + self.share}
        self.in_a_row = {rank: self.in_a_row.get(rank, 0) + 1 for rank in found}
        return {rank: ratio for rank, ratio in found.items() if self.in_a_row[rank] >= self.times}


def averages(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Gives the mean seconds of each part over some steps."""
    return {name: fmean(step[name] for step in steps) for name in steps[0]}


def own_seconds(steps: Sequence[Mapping[str, float]]) -> float:
    """Gives the median of what the steps took this rank itself: a step that something else disturbed counts for nothing."""
    return median(sum(value for name, value in step.items() if name != "communication") for step in steps)
