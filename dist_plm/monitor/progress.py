"""Shows a run on rank 0: a live bar on a terminal, occasional plain lines in a pipe or a Slurm log.

Nothing but the bar itself ever writes control characters, so a log file stays readable.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Protocol, TextIO

from tqdm import tqdm

from dist_plm.monitor.formatting import compact, duration
from dist_plm.monitor.metrics_file import StepRecord

#: Colours and cursor movements, as some libraries put them into their messages, and stray control characters.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class Progress(Protocol):
    """Shows how far a run is. Never raises: a terminal that went away does not end the training."""

    def update(self, record: StepRecord) -> None:
        """Moves to `record.step`."""

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Shows held-out measures, e.g. loss and perplexity, on a line of their own."""

    def message(self, text: str) -> None:
        """Shows a line of its own, above the bar where there is one."""

    def close(self) -> None:
        """Leaves the last state on the screen."""


def build_progress(total_steps: int, start_step: int = 0, *, stream: TextIO | None = None) -> Progress:
    """A bar if `stream` (stderr when None) is a terminal that understands one, else plain lines."""
    stream = stream or sys.stderr
    assert stream is not None
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return BarProgress(total_steps, start_step, stream)
    return LineProgress(total_steps, stream)


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints a line to `stream` (stderr when None), above the bar if one is live there. Never raises."""
    stream = stream or sys.stderr
    with tqdm.external_write_mode(file=stream):
        try:
            print(_CONTROL.sub("", text), file=stream, flush=True)
        except (OSError, ValueError):
            # The reader of a pipe or the terminal of a lost connection is gone; the same goes to the log file.
            return


class LineProgress:
    """One line for the first and last step and every `every_seconds` between."""

    def __init__(
        self,
        total_steps: int,
        stream: TextIO,
        *,
        every_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total_steps = total_steps
        self._stream = stream
        self._every_seconds = every_seconds
        self._clock = clock
        self._next_line = clock()

    def update(self, record: StepRecord) -> None:
        now = self._clock()
        if now >= self._next_line or record.step == self._total_steps:
            self._next_line = now + self._every_seconds
            self.message(f"step {record.step}/{self._total_steps}  {_describe(record, self._total_steps)}")

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        self.message(_describe_evaluation(step, values))

    def message(self, text: str) -> None:
        say(text, self._stream)

    def close(self) -> None:
        pass


class BarProgress:
    """A bar that fills the terminal's width."""

    def __init__(self, total_steps: int, start_step: int, stream: TextIO) -> None:
        self._total_steps = total_steps
        self._stream = stream
        self._bar = _Bar(
            total=total_steps,
            initial=start_step,
            file=stream,
            dynamic_ncols=True,
            miniters=1,
            bar_format="step {n_fmt}/{total_fmt} |{bar}| {desc}",
        )

    def update(self, record: StepRecord) -> None:
        self._bar.set_description_str(_describe(record, self._total_steps), refresh=False)
        self._bar.update(record.step - self._bar.n)

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        self.message(_describe_evaluation(step, values))

    def message(self, text: str) -> None:
        say(text, self._stream)

    def close(self) -> None:
        self._bar.close()


class _Bar(tqdm):
    #: tqdm otherwise starts a thread, which does not go with worker processes that are forked later.
    monitor_interval = 0


def _describe(record: StepRecord, total_steps: int) -> str:
    parts = [f"loss {record.loss:.4g}", f"lr {record.lr:.2e}"]
    if record.grad_norm is not None:
        parts.append(f"grad {record.grad_norm:.3g}")
    parts.append(f"{compact(record.tokens_per_second)} tok/s")
    if record.mfu is not None:
        parts.append(f"MFU {record.mfu:.1%}")
    parts.append(f"ETA {duration(record.step_seconds * (total_steps - record.step))}")
    return " ".join(parts)


def _describe_evaluation(step: int, values: Mapping[str, float]) -> str:
    return f"step {step}: held-out " + ", ".join(f"{name} {value:.4g}" for name, value in values.items())
