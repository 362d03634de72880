"""Runs that go on, in a terminal: what the page shows first, for those without a browser."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dist_plm.core.parsing import is_number
from dist_plm.monitor.formatting import ASCII_RAMP, UNICODE_RAMP, compact, duration, plain, sparkline
from dist_plm.monitor.live.follow import FollowedRun
from dist_plm.monitor.report_page.run_facts import events_of, starts_of

_POLL_SECONDS = 2.0
_LABEL_WIDTH, _EVENTS_SHOWN = 22, 5
#: Measures that have a line with a curve: title, name, how a value is written.
_CURVES: tuple[tuple[str, str, Callable[[float | None], str]], ...] = (
    ("loss", "loss", plain),
    ("held-out loss", "eval/loss", plain),
    ("held-out perplexity", "eval/perplexity", plain),
    ("learning rate", "lr", plain),
    ("gradient norm", "grad_norm", plain),
    ("tokens/s", "tokens_per_second", plain),
    ("MFU", "mfu", lambda value: "-" if value is None else f"{value:.1%}"),
    ("GPU memory (GiB)", "memory_gib", plain),
)


def watch_in_terminal(paths: Sequence[Path], console: Console) -> None:
    """Shows runs until it is interrupted; where the output is no terminal, once.

    Raises:
        UserError: a path is no run's directory.
    """
    runs = [FollowedRun(path) for path in paths]
    if not console.is_terminal:
        console.print(view_of(runs, console))
        return
    with Live(console=console, auto_refresh=False, screen=False, vertical_overflow="crop") as live:
        while True:
            live.update(view_of(runs, console), refresh=True)
            time.sleep(_POLL_SECONDS)


def view_of(runs: Sequence[FollowedRun], console: Console) -> RenderableType:
    """All runs, one below the other, as they are now."""
    for run in runs:
        run.update()
    return Group(*(Panel(_view(run, console), title=Text(_readable(str(run.path)))) for run in runs))


def _view(run: FollowedRun, console: Console) -> RenderableType:
    if not run.records:
        return Text("no step logged yet")
    table = Table.grid(padding=(0, 2))
    table.add_column(width=_LABEL_WIDTH)
    table.add_column(justify="right", min_width=9)
    table.add_column(no_wrap=True)
    width = max(console.width - _LABEL_WIDTH - 24, 8)
    ramp = ASCII_RAMP if console.options.ascii_only else UNICODE_RAMP
    for title, name, written in _CURVES:
        values = [record[name] for record in run.records if is_number(record.get(name))]
        if values:
            table.add_row(title, Text(written(values[-1])), Text(sparkline(values, width=width, ramp=ramp)))
    return Group(Text(_progress(run)), table, *(Text(_readable(line)) for line in _happened(run)))


def _progress(run: FollowedRun) -> str:
    last, settings = run.records[-1], run.run().settings
    steps = settings.get("train.stop_at") or settings.get("train.steps")
    parts = [f"step {last['step']:,}"]
    if isinstance(steps, int) and is_number(steps) and steps >= last["step"]:
        parts[0] += f" of {steps:,}"
        parts.append(f"ETA {duration(last['step_seconds'] * (steps - last['step']))}")
    return ", ".join([*parts, f"{compact(last['tokens_seen'])} tokens", f"{duration(run.seconds[-1])} in steps"])


def _happened(run: FollowedRun) -> list[str]:
    """The last restarts, rollbacks and alarms, one a line."""
    starts: list[tuple[int, str]] = [
        (start["step"] or 0, f"restart at {start['time']} on {start['node']}")
        for start in starts_of(run.path)
        if start["number"] > 1
    ]
    events: list[tuple[int, Any]] = [
        (event["step"], f"{event['kind']}: {event['text']}") for event in events_of(run.records)
    ]
    told = sorted([*starts, *events])[-_EVENTS_SHOWN:]
    return [f"after step {step:,}: {text}" for step, text in told]


def _readable(text: str) -> str:
    """Text without what a terminal would obey."""
    return "".join(character if character.isprintable() else "�" for character in text)
