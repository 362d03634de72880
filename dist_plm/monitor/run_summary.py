"""The few lines a run ends with: what came out, how fast, where it lies and what to try next."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_plm.monitor.formatting import compact, duration, plain
from dist_plm.monitor.metrics_file import begun_after, seconds_after


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run in a few numbers; None where the run has no such value.

    Args:
        perplexity_before, perplexity_after: of the held-out set, before the first and at the last evaluation.
        tokens_per_second, mfu: medians over the records; `mfu` from 0 to 1.
        wall_seconds: the whole run's; from the records it is the time spent in steps.
        begun_after: the step after which it made its first one, of another run's checkpoint; else 0.
        best: step and measure of the best checkpoint, of a run that keeps it.
    """

    run_dir: Path
    last_step: int
    tokens_seen: int
    loss_start: float
    loss_end: float
    perplexity_before: float | None
    perplexity_after: float | None
    tokens_per_second: float | None
    mfu: float | None
    skipped: int
    wall_seconds: float
    begun_after: int = 0
    best: str | None = None
    next_commands: tuple[str, ...] = ()

    @property
    def skipped_share(self) -> float:
        """Share of all its steps whose update was skipped."""
        return self.skipped / max(self.last_step - self.begun_after, 1)


def summarise(
    run_dir: Path,
    records: Sequence[Mapping[str, Any]],
    *,
    wall_seconds: float | None = None,
    best: str | None = None,
    next_commands: Sequence[str] = (),
) -> RunSummary:
    """Draws a run's numbers from its records (`read_metrics`), of which there must be at least one.

    Args:
        wall_seconds: of the whole run; None sums up the steps.
        best: what is told of its best checkpoint.
        next_commands: shell commands worth trying next, shown as they are.
    """
    first, last, begun = records[0], records[-1], begun_after(run_dir)
    return RunSummary(
        run_dir=run_dir,
        last_step=last["step"],
        tokens_seen=last["tokens_seen"],
        loss_start=first["loss"],
        loss_end=last["loss"],
        perplexity_before=_first(records, "eval/initial/perplexity"),
        perplexity_after=_first(reversed(records), "eval/perplexity"),
        tokens_per_second=_median(records, "tokens_per_second"),
        mfu=_median(records, "mfu"),
        skipped=sum(record["skipped"] for record in records),
        wall_seconds=step_seconds(records, begun) if wall_seconds is None else wall_seconds,
        begun_after=begun,
        best=best,
        next_commands=tuple(next_commands),
    )


def step_seconds(records: Sequence[Mapping[str, Any]], begun_after: int = 0) -> float:
    """Seconds spent in steps, the first of them after `begun_after`."""
    befores = [begun_after, *(record["step"] for record in records)]
    return math.fsum(map(seconds_after, befores, records))


def render_summary(summary: RunSummary) -> str:
    """The summary as lines for a terminal, without a line end at the end."""
    lines = [
        ("run", str(summary.run_dir)),
        ("steps", f"{summary.last_step:,} ({compact(summary.tokens_seen)} tokens) in {duration(summary.wall_seconds)}"),
        ("loss", change(summary.loss_start, summary.loss_end)),
    ]
    if summary.perplexity_before is not None or summary.perplexity_after is not None:
        lines.append(("held-out perplexity", change(summary.perplexity_before, summary.perplexity_after)))
    if summary.tokens_per_second is not None:
        mfu = "unknown (no peak for this device)" if summary.mfu is None else f"{summary.mfu:.1%}"
        lines += [("tokens/s", f"{plain(summary.tokens_per_second)} (median)"), ("MFU", mfu)]
    if summary.skipped:
        lines.append(("skipped updates", f"{summary.skipped:,} ({summary.skipped_share:.2%})"))
    if summary.best is not None:
        lines.append(("best checkpoint", summary.best))
    width = max(len(name) for name, _ in lines)
    text = [f"{name.ljust(width)}  {value}" for name, value in lines]
    if summary.next_commands:
        text += ["", "next:", *(f"  {command}" for command in summary.next_commands)]
    return "\n".join(text)


def change(before: float | None, after: float | None) -> str:
    """`10.8 -> 5.12`, with a dash where a value is missing."""
    return f"{plain(before)} -> {plain(after)}"


def _first(records: Iterable[Mapping[str, Any]], name: str) -> float | None:
    return next((record[name] for record in records if record.get(name) is not None), None)


def _median(records: Iterable[Mapping[str, Any]], name: str) -> float | None:
    values = [record[name] for record in records if record[name] is not None]
    return statistics.median(values) if values else None
