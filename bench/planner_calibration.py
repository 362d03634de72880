"""Predicts runs of a source as `plan calibrate=` does after one of its others, knowing nothing else of the source."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner_fit import Fit

from dist_plm.plan.timing.likeness import IN_COMMON, Traits, carried
from tools.published_runs import Published

#: Runs of a cluster that calibrate the others in turn; more say no more.
MOST_CALIBRATIONS = 12

#: Row -> seconds.
Seconds = Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Pair:
    """Holds two runs of a cluster, the first of which calibrates.

    Args:
        weight: as many pairs as a cluster has runs weigh as many as their root, as runs do in the fit.
    """

    one: Published
    other: Published
    distance: float
    weight: float


def pairs_of(runs: Iterable[Published]) -> list[Pair]:
    """Pairs the runs of each cluster."""
    return [pair for members in _clusters(runs) for pair in _pairs(members)]


def _clusters(runs: Iterable[Published]) -> list[list[tuple[Published, Traits]]]:
    found = defaultdict[tuple[str, str], list[tuple[Published, Traits]]](list)
    for run in runs:
        if run.seconds:
            found[run.cluster].append((run, Traits.of(run.config)))
    return list(found.values())


def _pairs(members: Sequence[tuple[Published, Traits]]) -> Iterator[Pair]:
    chosen = members[:: max(1, len(members) // MOST_CALIBRATIONS)]
    weight = len(members) ** 0.5 / (len(chosen) * max(1, len(members) - 1))
    for one, mine in chosen:
        for other, theirs in members:
            if other is not one:
                yield Pair(one, other, mine.distance(theirs), weight)


def nearest(runs: Iterable[Published], least: float = 0.0) -> list[Pair]:
    """Pairs each run with those of its cluster that are most like it, as `calibrate=` takes of a directory of runs.

    Args:
        least: distance from it.
    """
    return [pair for members in _clusters(runs) for pair in _nearest(members, least)]


def _nearest(members: Sequence[tuple[Published, Traits]], least: float) -> Iterator[Pair]:
    for other, theirs in members:
        others = [(one, mine.distance(theirs)) for one, mine in members if one is not other]
        distances = [distance for _, distance in others if distance >= least]
        chosen = [one for one, distance in others if distances and distance == min(distances)]
        yield from (Pair(one, other, min(distances), 1 / len(chosen)) for one in chosen)


def mean_error(pairs: Sequence[Pair], seconds: Seconds, shares: Mapping[str, float] | None) -> float:
    """Averages what runs are off by after calibration, each pair by its weight.

    Args:
        shares: in common, by source; the shipped one if None.
    """
    total = sum(pair.weight * abs(_after(pair, seconds, shares)) for pair in pairs)
    return total / sum(pair.weight for pair in pairs)


def off_by(run: Published, seconds: Seconds) -> float:
    """Tells by how much a run took longer than foretold, as a logarithm."""
    return math.log((run.seconds or math.nan) / seconds[run.row])


def in_common(pairs: Iterable[Pair], seconds: Seconds) -> float:
    """Estimates what runs of a cluster have in common: the share with which what the others are off by is nearest, by least
    squares, to what one run carries to them."""
    above = below = 0.0
    for pair in pairs:
        mine, own = off_by(pair.one, seconds), carried(pair.distance, 0.0)
        rest = (1 - own) * mine
        above += pair.weight * rest * (off_by(pair.other, seconds) - own * mine)
        below += pair.weight * rest**2
    return min(1.0, max(0.0, above / below)) if below else IN_COMMON


def shares_without(runs: Sequence[Published], pairs: Sequence[Pair], fit: Fit) -> dict[str, float]:
    """Estimates the share in common for each source from the others alone, each predicted by what was fitted without it and
    without the source."""
    families = sorted({run.family for run in runs})
    found = {}
    for left in families:
        seconds = dict[int, float]()
        for family in families:
            if family != left:
                seconds |= predicted(runs, fit, family, (left, family))
        found[left] = in_common((pair for pair in pairs if pair.one.family != left), seconds)
    return found


def predicted(runs: Iterable[Published], fit: Fit, family: str, without: Iterable[str]) -> dict[int, float]:
    """Predicts the runs of a source with efficiencies that were fitted without some."""
    fitted = fit.without(without)
    return {run.row: fitted.seconds(run) for run in runs if run.family == family and run.seconds}


def calibrated(
    pairs: Iterable[Pair], seconds: Seconds, shares: Mapping[str, float] | None
) -> dict[tuple[str, str], list[float]]:
    """Predicts, for each pair, the one run after the other: predicted seconds over measured ones, less 1, by cluster.

    Args:
        shares: in common, by source; the shipped one if None.
    """
    found = defaultdict[tuple[str, str], list[float]](list)
    for pair in pairs:
        found[pair.one.cluster].append(_after(pair, seconds, shares))
    return found


def _after(pair: Pair, seconds: Seconds, shares: Mapping[str, float] | None) -> float:
    """Gives predicted seconds over measured ones, less 1, of the one run after the other."""
    share = IN_COMMON if shares is None else shares[pair.one.family]
    moved = carried(pair.distance, share) * off_by(pair.one, seconds)
    return math.exp(moved - off_by(pair.other, seconds)) - 1
