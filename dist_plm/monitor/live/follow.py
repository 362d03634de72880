"""Follows metrics.jsonl as it grows: of what it holds, only what is new is read."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from dist_plm.core.errors import UserError, reason_of
from dist_plm.core.regular import open_regular
from dist_plm.monitor.metrics_file import begun_after, parse_record, seconds_after, still_holds
from dist_plm.monitor.report import NEEDED, Run, problem_of, read_settings

_RUN_FILES = ("metrics.jsonl", "run.yaml", "starts.jsonl")
#: Read at once; what is left is read the next time.
_MOST_BYTES = 256 * 2**20


class FollowedRun:
    """A run directory whose metrics may grow, begin anew, or not be there yet.

    Attributes:
        records: that are known so far; lines that are no record of a run are left out.
        seconds: spent in steps up to each record.
        generation: how often the file was put in place of another, as a run that goes on from an earlier step does.
    """

    def __init__(self, path: Path) -> None:
        """Raises UserError where `path` is no run's directory, or its settings cannot be read."""
        self.path = path
        if not os.path.isdir(path):
            raise UserError(f"{path} is no directory; name a run directory such as runs/quickstart")
        if not os.access(path, os.R_OK | os.X_OK):
            raise UserError(f"{path} cannot be read: this user may not look into it")
        if not any(os.path.exists(path / name) for name in _RUN_FILES):
            raise UserError(
                f"{path} is no run's directory: it holds no {', '.join(_RUN_FILES)}; wait until the run has started"
            )
        self.records: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.generation = 0
        self._offset = 0
        self._identity: tuple[int, int] | None = None
        self._last = b""  # line that was read
        self.settings = read_settings(path / "run.yaml")

    def update(self) -> None:
        """Reads what the file has got since. Where it is not there for the moment, all stays as it is.

        Raises:
            UserError: it is there, and cannot be read.
        """
        path = self.path / "metrics.jsonl"
        try:
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
                identity = (status.st_dev, status.st_ino)
                if identity != self._identity or not still_holds(file, self._last, self._offset):
                    self._begin_anew(identity)
                file.seek(self._offset)
                new = file.read(_MOST_BYTES)
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"{path} cannot be read: {reason_of(error, path)}") from None
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines(keepends=True):
            self._last = line
            self._add(parse_record(line))

    def run(self) -> Run:
        """The run as it is known, with the settings that it has now."""
        with suppress(UserError):  # being moved, or damaged: those of before are shown
            self.settings = read_settings(self.path / "run.yaml")
        return Run(self.path, self.records, self.settings)

    def _begin_anew(self, identity: tuple[int, int]) -> None:
        if self._identity is not None:
            self.generation += 1
        self._identity, self._offset, self._last = identity, 0, b""
        self.records, self.seconds = [], []

    def _add(self, record: dict[str, Any] | None) -> None:
        if record is None or any(name not in record for name in NEEDED) or problem_of(record):
            return
        before = self.records[-1]["step"] if self.records else begun_after(self.path)
        self.seconds.append((self.seconds[-1] if self.seconds else 0.0) + seconds_after(before, record))
        self.records.append(record)
