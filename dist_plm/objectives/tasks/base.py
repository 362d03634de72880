"""Declares what a task is: it turns labelled rows into columns of numbers, and what a model says of them into measures.

Columns are named as the arrays of a batch are (objectives/base.py); those of the labels are the task's own.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError
from dist_plm.core.parsing import is_infinite_or_nan
from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.data.sources.records import in_column
from dist_plm.objectives.base import IGNORED, LossTerm
from dist_plm.objectives.corruption.changeable_words import Changeable, WordTable
from dist_plm.spec.tasks.base import LabelsConfig, TaskConfig

#: What a model answers: a text, or the messages of a dialogue so far.
Question = str | Sequence[Mapping[str, str]]
#: What the data floor hands out and takes back: columns of numbers by name, see data/labelled/table.py.
Columns = dict[str, Any]
#: Column of what each row loses of its answer, in tokens: no part of its examples.
CUT = "cut"


class TextEncoder(Protocol):
    """Declares what turns texts into tokens, see data/labelled/encode.py."""

    def texts(self, first: Sequence[str], second: Sequence[str] | None = None) -> Mapping[str, Any]: ...
    def sources(self, first: Sequence[str], second: Sequence[str] | None = None) -> list[list[int]]: ...
    def words(self, rows: Sequence[Sequence[str]]) -> tuple[Any, Any]: ...
    def pieces(self, texts: Sequence[str]) -> list[list[int]]: ...
    def ragged(self, rows: Sequence[Sequence[int]]) -> Any: ...
    def windows(self, questions: Sequence[str], contexts: Sequence[str], question_length: int, stride: int) -> Any: ...
    def marked(self, text: str) -> tuple[list[int], list[tuple[int, int]]]: ...
    @property
    def special_ids(self) -> Collection[int]: ...
    @property
    def special_texts(self) -> Collection[str]: ...
    @property
    def special_names(self) -> Mapping[str, str]: ...
    @property
    def length(self) -> int: ...
    @property
    def has_decoder(self) -> bool: ...
    @property
    def by_likelihood(self) -> bool: ...
    @property
    def space(self) -> str: ...
    @property
    def has_frame(self) -> bool: ...
    @property
    def begin(self) -> list[int]: ...
    @property
    def end(self) -> int: ...
    @property
    def start(self) -> int: ...


class Scorer(Protocol):
    """Measures what a model says of a whole set, batch by batch. Each row is added once."""

    def add(self, rows: NDArray[np.int64], outputs: NDArray[np.float32]) -> None:
        """Takes note of rows [B] of the table and what the model says of each; where it says several things, as of the two
        ends of a span, they are the last dim of `outputs`."""
        ...

    def measures(self) -> dict[str, float]: ...

    def predictions(self) -> dict[str, Any]:
        """Gives what the model says of the rows, fit for JSON, by the names of files: those that end in .jsonl have a list,
        whose items are a line each."""
        ...


C = TypeVar("C", bound=TaskConfig, covariant=True)


class Task(Protocol[C]):
    """Declares a task's body."""

    @property
    def config(self) -> C: ...

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        """The parts of the loss, by the names they are logged under."""
        ...

    @property
    def fills(self) -> Mapping[str, int]:
        """Tells what rows of each padded column but the tokens are filled up with, where it is not 0."""
        ...

    def labels(self, rows: Iterable[LabelledRow], columns: Mapping[str, str]) -> set[str]:
        """Finds the labels in rows."""
        ...

    def encode(self, rows: Sequence[LabelledRow], columns: Mapping[str, str], encoder: TextEncoder) -> Columns:
        """Columns of numbers from rows, all of whose labels are known. Where `columns` lacks the one that a model is to say,
        any label stands in its place, of which nothing is to be measured. CUT tells, where answers may be longer than is
        learned, what each row loses.

        Raises:
            DataError: a row cannot be used.
        """
        ...

    def soft(self, table: Mapping[str, Any]) -> Mapping[str, NDArray[np.float32]]:
        """Tells of columns of labels how much each class is learned where a label stands, see `soft_targets`; nothing of those
        of which the label alone is.

        Args:
            table: of the training data.
        """
        ...

    def scorer(self, table: Mapping[str, Any]) -> Scorer:
        """Builds what measures a model on a table of examples."""
        ...


class ChangingTask(Task[C], Protocol[C]):
    """Declares the body of a task whose texts may be changed while they are learned."""

    def changeable(self, table: WordTable, encoder: TextEncoder) -> Callable[[Mapping[str, NDArray[Any]]], Changeable]:
        """Builds what finds the words of a microbatch that may be changed: those that leave what is learned as it is. It is
        pickled, and called in another process."""
        ...


class WritingTask(Task[C], Protocol[C]):
    """Declares the body of a task whose models write."""

    def prompts(self, asked: Sequence[Question], encoder: TextEncoder) -> list[list[int]]:
        """Gives the tokens that a model reads before it writes, of each thing that it is to answer."""
        ...

    def ends(self, encoder: TextEncoder) -> list[int]:
        """Gives the tokens that end an answer, beside those that end texts."""
        ...

    def is_answered(self, row: LabelledRow, columns: Mapping[str, str]) -> bool:
        """Tells whether a row holds something of what the model is to say."""
        ...

    def pair(self, row: LabelledRow, columns: Mapping[str, str]) -> tuple[Question, str | None]:
        """Gives what of a row is to be answered, and the answer; None where the row lacks it."""
        ...


def soft_targets(
    count: int, smoothing: float, weights: NDArray[np.float64] | None = None
) -> NDArray[np.float32] | None:
    """Tells how much each of `count` classes is learned where a label stands, [L, L], as PyTorch's cross_entropy smooths and
    weights; None where it is the label alone, once."""
    if smoothing == 0.0 and weights is None:
        return None
    scale = np.ones(count) if weights is None else weights
    return (np.diag((1 - smoothing) * scale) + smoothing / count * scale).astype(np.float32)


def label_weights(config: LabelsConfig, labels: NDArray[np.integer]) -> NDArray[np.float64] | None:
    """Tells how much each label counts; None where each counts once.

    Args:
        labels: [N], those of the training data, or IGNORED.
    """
    if config.balanced:
        counts = np.bincount(labels[labels != IGNORED], minlength=len(config.labels))
        return counts.sum() / (len(counts) * np.maximum(counts, 1))
    if not config.class_weights:
        return None
    return np.array([float(config.class_weights.get(label, 1.0)) for label in config.labels])


def by_row(name: str, rows: Iterable[int], said: Iterable[Any]) -> dict[str, Any]:
    """Gives the file of predictions of a task that says one thing of each row; rows are numbered from 0."""
    return {"predictions.jsonl": [{"row": row, name: one} for row, one in zip(rows, said, strict=True)]}


def value_of(row: LabelledRow, column: str) -> Any:
    """Gives what is in a column of a row, or, of a column that holds others, in `column.inner`; None where there is nothing."""
    return in_column(row.values, column)


def text_of(row: LabelledRow, column: str) -> str:
    """The text in a column of a row; raises DataError where there is none."""
    value = value_of(row, column)
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and not is_infinite_or_nan(value):
        return str(value)
    what = "is missing" if value is None else "is empty" if isinstance(value, str) else f"is {type(value).__name__}"
    what = f"is {value}" if is_infinite_or_nan(value) else what
    raise DataError(f"{row.place}: column {column!r} {what}, where the task reads a text: mend or remove the row")


def next_tokens(rows: Sequence[Sequence[int]], learned: Sequence[Sequence[bool]], encoder: TextEncoder) -> Columns:
    """The columns of rows in which each token predicts the next one, where that is learned."""
    labels = [
        [token if counts else IGNORED for token, counts in zip(row[1:], mask[1:], strict=True)]
        for row, mask in zip(rows, learned, strict=True)
    ]
    return {"tokens": encoder.ragged([row[:-1] for row in rows]), "labels": encoder.ragged(labels)}


def lost_tokens(texts: Iterable[Sequence[int]], room: int) -> NDArray[np.int64]:
    """Counts the tokens of each text that are beyond `room`."""
    return np.array([max(len(ids) - room, 0) for ids in texts], dtype=np.int64)


def written(
    sources: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], room: int, encoder: TextEncoder
) -> Columns:
    """The columns of what an encoder reads, a row each, and of what its decoder writes of it.

    Args:
        texts: as many for each source, those of all one after the other.
        room: tokens of a text at most.
    """
    labels = [[*ids[: room - 1], encoder.end] for ids in texts]
    return {
        "tokens": encoder.ragged(sources),
        "decoder_tokens": encoder.ragged([[encoder.start, *row[:-1]] for row in labels]),
        "labels": encoder.ragged(labels),
    }


def texts_of(rows: Sequence[LabelledRow], columns: Mapping[str, str]) -> tuple[list[str], list[str] | None]:
    """The texts of rows, and the second ones where there are pairs."""
    first = [text_of(row, columns["text"]) for row in rows]
    second = [text_of(row, columns["pair"]) for row in rows] if "pair" in columns else None
    return first, second


def label_of(row: LabelledRow, column: str) -> str:
    """The label in a column of a row, as text; raises DataError where there is none."""
    return label_text(value_of(row, column), f"{row.place}: column {column!r}")


def label_text(value: Any, where: str) -> str:
    """A label as text; raises DataError where it is none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | str) and str(value).strip():
        return str(value).strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    what = "has no label" if value in (None, "") else f"has {value!r}, which is no label"
    raise DataError(f"{where} {what}: mend or remove the row")


def number_of(label: str, numbers: Mapping[str, int], place: str) -> int:
    """The number of a label; raises DataError where it is none of the task's."""
    if label not in numbers:
        known = ", ".join([*numbers][:20]) + (", …" if len(numbers) > 20 else "")
        raise DataError(
            f"{place}: {label!r} is not among the labels of the task, {known}: mend the row, or name all labels in task.labels"
        )
    return numbers[label]
