"""Rows that a model is asked about, with what it should say of them or without."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.config.suggest import did_you_mean, near
from dist_plm.core.errors import ConfigError
from dist_plm.data.labelled.columns import find_columns
from dist_plm.data.labelled.rows import RowFile
from dist_plm.data.labelled.table import Table
from dist_plm.objectives.build import build_writing_task
from dist_plm.objectives.metrics.row_losses import losses_of_rows
from dist_plm.objectives.tasks.base import Scorer, value_of
from dist_plm.spec.inference.schema import EvaluateConfig
from dist_plm.spec.tasks import TaskConfig
from dist_plm.tasks.inference.open_model import FoundModel
from dist_plm.train.labelled import names_in


@dataclass(frozen=True, slots=True)
class AskedRows:
    """Holds rows of a file.

    Args:
        columns: that the task reads, by what the file calls them; without its answer where the file has none.
        answered: some of them hold what the model should say.
    """

    file: RowFile
    columns: Mapping[str, str]
    answered: bool

    @classmethod
    def of(cls, config: EvaluateConfig, found: FoundModel, task: TaskConfig, file: RowFile) -> "AskedRows":
        """Finds the columns, named as here, or else as the run had them; `data.columns.label=null` leaves labels unread.

        Raises:
            ConfigError: nothing could be measured, and nothing is to be kept.
            DataError: the file has no rows, or lacks a column.
        """
        given, names = config.data.columns, names_in(file)
        _refuse_unknown(given, task)
        of_run = {} if any(given.values()) else dict(found.source.columns)
        wanted = dict(task.columns_to_ask)
        unread = given.get(task.answer, "") is None
        if unread or of_run.get(task.answer, names[0]) not in names:
            del wanted[task.answer]  # another by a usual name would be something else
        columns = find_columns(wanted, {**of_run, **given}, names, file.path)
        rows = cls(file, columns, _hold_answers(task, file, columns))
        if not rows.answered and config.predictions is None and not config.samples:
            raise ConfigError(
                [
                    f"data.rows = {file.path} has no {task.answer}, and nothing can be measured: give predictions=FILE to keep "
                    f"what the model says, or the column as data.columns.{task.answer}=NAME"
                ]
            )
        return rows


def _hold_answers(task: TaskConfig, file: RowFile, columns: Mapping[str, str]) -> bool:
    if task.writes:
        body = build_writing_task(task)
        return any(body.is_answered(row, columns) for row in file)
    return task.answer in columns


def _refuse_unknown(given: Mapping[str, Any], task: TaskConfig) -> None:
    known = list(task.columns)
    problems = [
        f"data.columns.{name} is nothing that task.name = {task.name!r} reads{did_you_mean(near(str(name), known))}; it reads "
        f"{', '.join(known)}"
        for name in given
        if name not in known
    ]
    if problems:
        raise ConfigError(problems)


@dataclass(slots=True)
class Unmeasured:
    """Keeps what a model says of rows of which nothing is known, and whether that are numbers. See
    objectives.tasks.base.Scorer."""

    scorer: Scorer
    is_broken: bool = False

    def add(self, rows: NDArray[np.int64], outputs: NDArray[np.float32]) -> None:
        self.is_broken |= bool(np.isnan(outputs).any())
        self.scorer.add(rows, outputs)

    def measures(self) -> dict[str, float]:
        return {"output": math.nan} if self.is_broken else {}

    def predictions(self) -> dict[str, Any]:
        return self.scorer.predictions()


@dataclass(frozen=True, slots=True)
class Weighed:
    """Keeps the loss of each row as well. See objectives.tasks.base.Scorer.

    Args:
        losses: [N], of all rows of the table.
    """

    scorer: Scorer
    table: Table
    losses: NDArray[np.float64]

    def add(self, rows: NDArray[np.int64], outputs: NDArray[np.float32]) -> None:
        self.losses[rows] = losses_of_rows(self.table, rows, outputs)
        self.scorer.add(rows, outputs)

    def measures(self) -> dict[str, float]:
        return self.scorer.measures()

    def predictions(self) -> dict[str, Any]:
        return self.scorer.predictions()


def worst_rows(
    rows: AskedRows, table: Table, losses: NDArray[np.float64], said: Sequence[Any], count: int
) -> list[Any]:
    """Lists the `count` rows of the largest loss, the worst first: what they hold, and what the model said.

    Args:
        losses: of the examples of `table`, which of long texts are several for a row; then the mean counts.
        said: of each row.
    """
    if "is_first" in table:
        row_of = np.cumsum(np.asarray(table["is_first"])) - 1
        losses = np.bincount(row_of, weights=losses) / np.bincount(row_of)
    chosen = np.argsort(-losses, kind="stable")[:count].tolist()
    wanted = set(chosen)
    held = {number: row for number, row in enumerate(rows.file) if number in wanted}
    return [
        {
            "row": number,
            "loss": float(losses[number]),
            **{name: value_of(held[number], column) for name, column in rows.columns.items()},
            "prediction": said[number],
        }
        for number in chosen
    ]
