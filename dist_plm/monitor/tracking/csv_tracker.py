"""A run's metrics as a table, `metrics.csv`, for spreadsheets and whatever reads no JSON."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_plm.core.files import atomic_writer, open_to_append
from dist_plm.core.regular import read_regular
from dist_plm.monitor.tracking.later_measures import records_of

FILE = "metrics.csv"


class CsvTracker:
    """One row a logged step and one column a measure, each step once however often the run is started again.

    A measure that comes later, as those of evaluations do, adds a column: the file is written anew then, whole or not at all.
    A value that does not apply is an empty cell; what is not finite is nan, inf or -inf.
    """

    def __init__(self, run_dir: Path, *, start_step: int = 0) -> None:
        """Begins with what the run's files hold up to `start_step`."""
        self._run_dir = run_dir
        self._columns: list[str] = ["step"]
        self.rewind(start_step)

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        row = {**values, "step": step}
        if any(name not in self._columns for name in row):
            self._write([*_rows_of(self._run_dir / FILE), row])
            return
        with open_to_append(self._run_dir / FILE) as file:
            file.write(_encoded(self._columns, [row], head=False))

    def rewind(self, step: int) -> None:
        """Goes back to a step, by what the run's files hold of those up to it."""
        self._columns = ["step"]
        self._write(records_of(self._run_dir, step))

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing: they are in the row of the step since the table was begun."""

    def keep(self, page: Path, text: str) -> None:
        """Leaves the report where it is: beside the table."""

    def close(self, exit_code: int | None = None) -> None:
        """Does nothing: each row is in the file once it is logged."""

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._columns = list(dict.fromkeys([*self._columns, *(name for row in rows for name in row)]))
        self._run_dir.mkdir(parents=True, exist_ok=True)
        with atomic_writer(self._run_dir / FILE) as file:
            file.write(_encoded(self._columns, rows, head=True))


def _rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(read_regular(path).decode(), newline="")))


def _encoded(columns: list[str], rows: Iterable[Mapping[str, Any]], *, head: bool) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if head:
        writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    return text.getvalue().encode()
