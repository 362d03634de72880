"""Rows out of CSV and TSV, whatever their quotes mean."""

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from dist_plm.core.errors import DataError
from dist_plm.data.sources.lines import raw_lines
from dist_plm.data.sources.records import (
    MAX_RECORD_BYTES,
    BrokenRecordError,
    Record,
    Rejected,
    Template,
    check_columns,
    documents_of_row,
)
from dist_plm.data.sources.slices import Slice

#: What quotes and backslashes are: "minimal" holds fields together with quotes and doubles those inside (RFC 4180),
#: "backslash" puts a backslash before those inside, under "none" both are text.
Quoting = Literal["minimal", "none", "backslash"]
#: A backslash that escapes neither a quote, nor itself, nor a line's end is text.
_TEXT_BACKSLASH = re.compile(r'(\\[\\"\n])|\\')
#: What a row is that equals the header.
NAMES_AGAIN = "the names of the columns again: files were joined"

NumberedLine = tuple[int, str]


class DelimitedRow(NamedTuple):
    """A row, with the lines of the file that it was made of. `error`: why there are no fields."""

    fields: list[str]
    lines: list[NumberedLine]
    error: str | None = None

    @property
    def line(self) -> int:
        """The line of the file that it begins on."""
        return self.lines[0][0]


def delimiter_of(part: Slice) -> str:
    return "\t" if part.format == "tsv" else ","


def delimited_records(part: Slice, quoting: Quoting) -> Iterator[Record]:
    """The documents of a file whose first row names the columns; blank lines are passed over.

    Raises:
        DataError: the file cannot be read, its first row is broken, or it lacks a column or has it twice.
    """
    too_long: list[int] = []
    template = Template(part.source.text)
    header: list[str] | None = None
    for row in rows(text_lines(part, too_long), delimiter_of(part), quoting):
        yield from (Rejected(number, "too long", "a line of more bytes than a record may have") for number in too_long)
        too_long.clear()
        if header is None:
            header = _header(part, row)
            check_columns(part.path, template, header)
        elif row.error is None and len(row.fields) == len(header) and row.fields != header:
            yield from documents_of_row(dict(zip(header, row.fields, strict=True)), template, part.source, row.line)
        else:
            yield _broken(row, header)
    yield from (Rejected(number, "too long", "a line of more bytes than a record may have") for number in too_long)


def _header(part: Slice, row: DelimitedRow) -> list[str]:
    if row.error is not None:
        raise DataError(
            f"{part.path}, line {row.line}: the first row, which names the columns, is broken: {row.error}; mend it, or "
            "say what quotes are with quoting: none, minimal or backslash in data.sources"
        )
    return row.fields


def _broken(row: DelimitedRow, header: list[str]) -> Rejected:
    detail = row.error
    if row.error is None and row.fields == header:
        detail = NAMES_AGAIN
    elif row.error is None:
        detail = f"{len(row.fields)} fields where the header has {len(header)}"
    return BrokenRecordError("bad row", detail or "").at(row.line, "".join(line for _, line in row.lines))


def text_lines(part: Slice, too_long: list[int]) -> Iterator[NumberedLine]:
    """Numbered lines of a file; an empty one, and its number in `too_long`, in place of one that is too long."""
    for number, line in raw_lines(part):
        if line is None:
            too_long.append(number)
        # What is not UTF-8 passes the parser as surrogates and is rejected with its row.
        yield number, "\n" if line is None else line.decode(errors="surrogateescape").replace("\r\n", "\n")


def rows(lines: Iterator[NumberedLine], delimiter: str, quoting: Quoting) -> Iterator[DelimitedRow]:
    """The rows of lines but for blank ones.

    A field that does not close, or is wrong in a later line, breaks the line on which it begins and no other: what follows
    is read again from the next one on."""
    if quoting == "none":
        for number, line in lines:
            if line.strip("\n"):
                yield DelimitedRow(line.rstrip("\n").split(delimiter), [(number, line)])
        return
    csv.field_size_limit(MAX_RECORD_BYTES)
    escaped = quoting == "backslash"
    source = _Replayed(lines, escaped=escaped)
    reader = csv.reader(source, delimiter=delimiter, strict=True, escapechar="\\" if escaped else None)
    while True:
        source.taken = []
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            first, *others = source.taken
            source.again.extendleft(reversed(others))
            reason = str(error) if not others else f"a quote opens a field that does not end as one ({error})"
            yield DelimitedRow([], [first], reason)
            continue
        if fields:
            yield DelimitedRow(fields, source.taken)


class _Replayed:
    """Lines for csv.reader, which can be had `again`; `taken` are those that the reader had since it was last emptied."""

    def __init__(self, lines: Iterable[NumberedLine], *, escaped: bool) -> None:
        self.taken: list[NumberedLine] = []
        self.again: deque[NumberedLine] = deque()
        self._lines = iter(lines)
        self._escaped = escaped

    def __iter__(self) -> "_Replayed":
        return self

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else next(self._lines)
        self.taken.append(line)
        return _TEXT_BACKSLASH.sub(_doubled, line[1]) if self._escaped else line[1]


def _doubled(match: re.Match[str]) -> str:
    return match[1] or "\\\\"
