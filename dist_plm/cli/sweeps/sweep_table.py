"""Tells what the runs of a sweep reached: mean and spread over seeds, for each setting that is compared."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dist_plm.cli.sweeps.run_end import RunEnd, run_end
from dist_plm.monitor.formatting import table

#: What tells runs apart that are repetitions of each other.
_SEED = "train.seed"
#: Begin the names of measures that are no result: what was measured before the first step, and by the parts of a loss.
_NO_RESULTS = ("initial/", "loss/", "accuracy/", "perplexity/")
_HEADER = ("setting", "measure", "mean", "deviation", "lowest", "highest", "runs")


class SweptRun(NamedTuple):
    """Says what tells a run from others of its sweep, and where it is.

    Args:
        own: its overrides that others do not have.
    """

    own: Sequence[str]
    run_dir: Path


def table_of(runs: Sequence[SweptRun]) -> str:
    """Makes the table of the held-out measures of finished runs; empty where fewer than two have any.

    `deviation` is the standard deviation of one run (n - 1), a dash of a single one.
    """
    found = [(_setting(run.own), end) for run in runs if (end := run_end(run.run_dir)) is not None]
    if len(found) < 2:
        return ""
    groups: dict[str, list[RunEnd]] = {}
    for setting, end in found:
        groups.setdefault(setting, []).append(end)
    return table([_HEADER, *(line for setting, ends in groups.items() for line in _lines(setting, ends))])


def _setting(own: Sequence[str]) -> str:
    """Gives what is compared: the values of a run but its seed."""
    told = [text for text in own if text.lstrip("+").partition("=")[0] != _SEED]
    return " ".join(told) or "all"


def _lines(setting: str, ends: Sequence[RunEnd]) -> list[tuple[str, ...]]:
    return [
        (setting, name, *_numbers(values), str(len(values)))
        for name in ends[0].measures
        if not name.startswith(_NO_RESULTS) and (values := _values(name, [end.measures for end in ends]))
    ]


def _values(name: str, measures: Sequence[Mapping[str, float]]) -> list[float]:
    """Those of runs that have one, which may be no number."""
    told = (one.get(name) for one in measures)
    return [value for value in told if isinstance(value, int | float) and math.isfinite(value)]


def _numbers(values: Sequence[float]) -> tuple[str, ...]:
    deviation = f"{statistics.stdev(values):.3g}" if len(values) > 1 else "-"
    return f"{statistics.fmean(values):.5g}", deviation, f"{min(values):.5g}", f"{max(values):.5g}"
