"""Turns the rows of a file into examples, and tells of how many the answer is too long."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from dist_plm.core.errors import DataError, count_of
from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.labelled.rows import LabelledRow, RowFile
from dist_plm.data.labelled.table import Ragged, Table, joined, num_examples
from dist_plm.data.reach import check_rows, percent
from dist_plm.objectives.tasks.base import CUT, Task

#: Rows that are encoded at a time.
_ROWS = 8192
#: Rows in which unknown tokens are looked for.
_LOOKED_AT_ROWS = 1000
_OTHER_TEXT = (
    ": it was made for other text; begin with a model of this language, or with its own tokenizer in data.tokenizer"
)


class EncodedRows(NamedTuple):
    """Holds the examples of a file.

    Args:
        warnings: what a person is to know of them.
    """

    table: Table
    warnings: tuple[str, ...]


def encoded(
    file: RowFile, columns: Mapping[str, str], task: Task[Any], encoder: ExampleEncoder, *, scored: bool = True
) -> EncodedRows:
    """The rows of a file as examples.

    Args:
        scored: with what measures alone read.
    Raises:
        DataError: one cannot be used.
    """
    left_out = () if scored else task.config.scoring
    parts: list[Table] = []
    count, cut = 0, list[str]()
    for rows in _batches(file):
        part = dict(task.encode(rows, columns, encoder))
        lost = part.pop(CUT, None)
        cut += [] if lost is None else [row.place for row, tokens in zip(rows, lost, strict=True) if tokens]
        parts.append({name: column for name, column in part.items() if name not in left_out})
        count += len(rows)
        if (found := num_choices(parts[-1])) != (known := num_choices(parts[0])):  # a batch of rows has one number
            refuse_choices(rows[0].place, found, f"rows before it have {known}")
    first = parts[0]["tokens"]
    assert isinstance(first, Ragged)
    looked_at = [first[row] for row in range(min(len(first), _LOOKED_AT_ROWS))]
    check_rows(looked_at, encoder.tokenizer, f"of {file.path}", _OTHER_TEXT)
    warnings = (f"{file.key} = {file.path}: {_told(cut, count, task, encoder)}",) if cut else ()
    return EncodedRows(joined(parts), warnings)


def refuse_choices(place: str, found: int, others: str) -> NoReturn:
    """Raises DataError for a row with another number of choices than others have."""
    raise DataError(f"{place}: {count_of(found, 'choice')} where {others}: give every row as many")


def num_choices(table: Table) -> int:
    """Counts the choices of each row; 1 where there are none."""
    return max(map(len, table.values())) // num_examples(table)


def _told(cut: Sequence[str], count: int, task: Task[Any], encoder: ExampleEncoder) -> str:
    """Tells of rows, of which these are cut."""
    config = task.config
    most = config.longest_answer(encoder.length, has_decoder=encoder.has_decoder)
    told = config.told_of_long.format(bound=config.answer_bound, most=most)
    return (
        f"in {len(cut):,} of {count_of(count, 'row', ',')} ({percent(len(cut) / count)}) {told}, of {cut[0]} first: "
        "raise it, or shorten or remove them"
    )


def _batches(file: RowFile) -> Iterator[Sequence[LabelledRow]]:
    rows = iter(file)
    while batch := list(itertools.islice(rows, _ROWS)):
        yield batch
