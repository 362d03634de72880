"""Reports what run directories say about their runs: one in detail, several side by side."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_plm.config.decode import flatten, show
from dist_plm.config.runfile import STARTED_IN
from dist_plm.core.errors import UserError, reason_of
from dist_plm.core.parsing import is_number, load_yaml, read_text
from dist_plm.monitor.formatting import UNICODE_RAMP, compact, duration, plain, sparkline, table
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.monitor.report_page.run_tables import operations_of
from dist_plm.monitor.run_summary import change, render_summary, summarise

#: In a run's directory: the page of a run that has trackers.
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory's records and its settings under dotted names (none without a `run.yaml`)."""

    path: Path
    records: list[dict[str, Any]]
    settings: dict[str, Any]


def load_run(path: Path) -> Run:
    """Reads `metrics.jsonl` and `run.yaml` of a run directory.

    Raises:
        UserError: there is no such directory, it has no metrics, no step was logged, or its settings are no YAML mapping.
    """
    metrics = path / "metrics.jsonl"
    if not os.path.isdir(path):
        raise UserError(f"{path} is no directory; name a run directory such as runs/quickstart")
    try:
        records = read_metrics(metrics)
    except OSError as error:
        reason = (
            "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({reason_of(error, metrics)})"
        )
        raise UserError(f"{metrics} {reason}; name the directory of a run that has started") from error
    if not records:
        raise UserError(f"{metrics} holds no step yet; wait for the first logged step of the run")
    lacking = sorted({key for record in records for key in NEEDED if key not in record})
    if lacking:
        raise UserError(f"{metrics} lacks {', '.join(lacking)} in some line; was it written by another program?")
    for record in records:
        if problem := problem_of(record):
            raise UserError(f"{metrics}, step {show(record['step'])}: {problem}; was it written by another program?")
    return Run(path, records, read_settings(path / "run.yaml"))


def render_report(runs: Sequence[Run], *, ramp: str = UNICODE_RAMP) -> str:
    """A summary with the course of the run for one, a comparison for several.

    Args:
        ramp: characters of the loss curve from low to high.
    """
    return _detail(runs[0], ramp) if len(runs) == 1 else _comparison(runs, ramp)


#: Names that each record of a run has.
NEEDED = ("step", "loss", "lr", "grad_norm", "tokens_seen", "tokens_per_second", "step_seconds", "mfu", "skipped")
#: Of them, those that may not be known, and those that no run brings to infinity.
_MAYBE_NULL = ("grad_norm", "mfu", "tokens_per_second", "eval/perplexity", "eval/initial/perplexity")
_COUNTED = ("step", "tokens_seen", "step_seconds", "skipped")
_MOST = 1e18
_COURSE_ROWS = 10
_CURVE_WIDTH = 60
_OPERATIONS_SHOWN = 10


def _detail(run: Run, ramp: str) -> str:
    curve = sparkline(_losses(run), width=_CURVE_WIDTH, ramp=ramp)
    rows = [["step", "tokens", "loss", "lr", "grad norm", "tokens/s", "MFU", "held-out perplexity"]]
    for record in _course(run.records):
        rows.append(
            [
                f"{record['step']:,}",
                compact(record["tokens_seen"]),
                plain(record["loss"]),
                plain(record["lr"]),
                plain(record["grad_norm"]),
                compact(record["tokens_per_second"]),
                _percent(record["mfu"]),
                plain(record.get("eval/perplexity")),
            ]
        )
    lines = [render_summary(summarise(run.path, run.records)), "", f"loss {curve}", "", table(rows)]
    for profiled in operations_of(run.path):
        lines += ["", profiled["title"], table(profiled["rows"][: _OPERATIONS_SHOWN + 1])]
    return "\n".join(lines)


def _comparison(runs: Sequence[Run], ramp: str) -> str:
    width = max(8, _CURVE_WIDTH // len(runs))
    rows = [["run", *(str(run.path) for run in runs)], *comparison_rows(runs)]
    rows.append(["loss curve", *(sparkline(_losses(run), width=width, ramp=ramp) for run in runs)])
    differing = differing_settings(runs)
    if differing:
        rows += [[""] * (len(runs) + 1), ["settings that differ", *[""] * len(runs)], *differing]
    return table(rows)


_COMPARED = {
    "steps": lambda summary: f"{summary.last_step:,}",
    "tokens": lambda summary: compact(summary.tokens_seen),
    "loss": lambda summary: change(summary.loss_start, summary.loss_end),
    "held-out perplexity": lambda summary: change(summary.perplexity_before, summary.perplexity_after),
    "tokens/s": lambda summary: plain(summary.tokens_per_second),
    "MFU": lambda summary: _percent(summary.mfu),
    "skipped updates": lambda summary: f"{summary.skipped:,} ({summary.skipped_share:.2%})",
    "time in steps": lambda summary: duration(summary.wall_seconds),
}


def comparison_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Rows of the runs' summaries: what is compared, and each run's value as text."""
    summaries = [summarise(run.path, run.records) for run in runs]
    return [[name, *(show(summary) for summary in summaries)] for name, show in _COMPARED.items()]


def differing_settings(runs: Sequence[Run]) -> list[list[str]]:
    """A row for each setting that is not the same in all runs, in the order of the first run that has it."""
    of_place = ("run.", STARTED_IN)
    names = dict.fromkeys(name for run in runs for name in run.settings if not name.startswith(of_place))
    rows = ([name, *(show(run.settings[name]) if name in run.settings else "-" for run in runs)] for name in names)
    return [row for row in rows if len(set(row[1:])) > 1]


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a run.yaml under dotted names; without one there are none. Raises UserError where it is no YAML mapping."""
    try:
        settings = load_yaml(read_text(path), str(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason_of(error, path)}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} is no mapping of settings; it was not written by a run")
    return flatten(settings)


def problem_of(record: dict[str, Any]) -> str | None:
    """Finds a value of a record that no run writes."""
    for name in (*NEEDED, *_MAYBE_NULL):
        value: Any = record.get(name)
        if value is None and name in _MAYBE_NULL:
            continue
        if value is None or not is_number(value) or (name in _COUNTED and not 0 <= value <= _MOST):
            shown = "a list or mapping" if isinstance(value, list | dict) else show(value)
            return f"{name} = {shown} is no {'count or time' if name in _COUNTED else 'number'}"
    return None


def _course(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records that show how a run went: some of all, and some of those with an evaluation."""
    evaluated = [record for record in records if "eval/perplexity" in record]
    picked = {record["step"]: record for record in (*_evenly(records, _COURSE_ROWS), *_evenly(evaluated, _COURSE_ROWS))}
    return [picked[step] for step in sorted(picked)]


def _evenly(records: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """At most `count` records, evenly spaced, the first and the last among them."""
    last, count = len(records) - 1, min(count, len(records))
    return [records[round(last * i / max(count - 1, 1))] for i in range(count)]


def _losses(run: Run) -> list[float]:
    return [record["loss"] for record in run.records]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
