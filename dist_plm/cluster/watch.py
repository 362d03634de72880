"""Follows jobs until they end: each change of state, and the metrics as they are written."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from dist_plm.cluster.slurm import JobState, job_state
from dist_plm.core.parsing import is_number
from dist_plm.monitor.metrics_file import parse_record, still_holds


class MetricsTail:
    """New records of a run's metrics.jsonl, each step once.

    A run that starts again replaces the file by one that holds a part of it, and repeats some steps. One that begins anew keeps
    none of it: its first record is another, and all of its steps are new.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "metrics.jsonl"
        self._inode, self._position, self._step = 0, 0, 0
        self._first: bytes | None = None  # line of the file
        self._last = b""  # line that was read

    def new(self) -> Iterator[dict[str, Any]]:
        """Records since the last call; a line that is not whole yet is left for the next."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode or not still_holds(file, self._last, self._position):
                self._inode, self._position, self._last = inode, 0, b""
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                if self._position == 0:
                    self._step = self._step if line == self._first else 0
                    self._first = line
                self._position += len(line)
                self._last = line
                record = parse_record(line)
                if record is not None and record["step"] > self._step:
                    self._step = record["step"]
                    yield record


class Followed:
    """A job whose run is told from here on: what the run's earlier jobs wrote is not told again."""

    def __init__(self, number: str, run_dir: Path) -> None:
        self.number, self.name = number, run_dir.name
        self.state = JobState("")
        self.metrics = MetricsTail(run_dir)
        for _ in self.metrics.new():
            pass


def watch(jobs: Sequence[Followed], say: Callable[[str], None], *, poll_seconds: float = 3.0) -> bool:
    """Tells what happens to `jobs` until all have ended; True if all completed.

    Raises:
        SlurmError: Slurm cannot be asked.
    """
    while True:
        for job in jobs:
            which = f"  {job.name}" if len(jobs) > 1 else ""
            # The state first: metrics that are written before a job's end are then told before it.
            state = job.state if job.state.ended else job_state(job.number)
            lines = [describe_step(record) for record in job.metrics.new()]
            if state != job.state:
                lines.append(describe_state(state))
                job.state = state
            for line in lines:
                say(f"{datetime.now():%H:%M:%S}{which}  {line}")
        if all(job.state.ended for job in jobs):
            return all(job.state.name == "COMPLETED" for job in jobs)
        time.sleep(poll_seconds)


def describe_state(state: JobState) -> str:
    """One line: state, nodes or reason, restarts, exit code."""
    restarts = f", restart {state.restarts}" if state.restarts else ""
    code = f", exit code {state.exit_code}" if state.exit_code is not None else ""
    return f"{state.name} {state.where}".strip() + restarts + code


def describe_step(record: dict[str, Any]) -> str:
    """One line: the step and what a person looks at first."""
    parts = [f"step {record['step']}"]
    for key, form in (("loss", ".4f"), ("eval/loss", ".4f"), ("lr", ".3g"), ("tokens_per_second", ",.0f")):
        if is_number(record.get(key)):
            parts.append(f"{key.replace('_', ' ')} {record[key]:{form}}")
    return "  ".join(parts)
