"""Holds what reading gives: documents, and records that are broken, each with the place where a person finds it."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from io import StringIO
from typing import Any, Literal, NamedTuple

from dist_plm.core.errors import DataError
from dist_plm.core.parsing import is_infinite_or_nan, other_delimiter
from dist_plm.data.sources.assemble import LineBlock, assemble
from dist_plm.spec.prepare.schema import SourceConfig
from dist_plm.spec.prepare.template import parse_template

Reason = Literal["not UTF-8", "not JSON", "bad row", "no such column", "not text", "empty text", "too long"]
#: A longer line, row or uncut document is rejected, so that no process needs memory for it: 32 MiB.
MAX_RECORD_BYTES = 2**25
_EXCERPT_CHARS = 200


class Document(NamedTuple):
    """A text and the line, or row of a table, it began on, counted from 1."""

    line: int
    text: str


class Rejected(NamedTuple):
    """A record that is not read: where, why, and how it begins."""

    line: int
    reason: Reason
    detail: str
    excerpt: str = ""


Record = Document | Rejected


class BrokenRecordError(Exception):
    """A record cannot be used, for a reason that is counted."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason: Reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")

    def at(self, line: int, record: object) -> Rejected:
        return Rejected(line, self.reason, self.detail, str(record)[:_EXCERPT_CHARS])


class Template:
    """Renders `SourceConfig.text`: the value of a column, or text with columns in it.

    Attributes:
        columns: their names, as `in_column` takes them.
    """

    def __init__(self, text: str) -> None:
        self._parts = parse_template(text)
        self._is_column = "{" not in text
        self.columns = list(dict.fromkeys(part.column for part in self._parts if part.column is not None))

    def render(self, row: Mapping[str, Any]) -> str:
        """The text of a row. A lone column has to hold text; in a template numbers are written out.

        A column that may be empty, and is, goes with the literal before it, and so does the literal before the column that
        then is the first.

        Raises:
            BrokenRecordError: a column is missing, or holds no text, or text that is no Unicode.
        """
        text, is_first = "", False
        for part in self._parts:
            if part.column is None:
                text += "" if is_first else part.literal
            elif part.may_be_empty and self._is_empty(row, part.column):
                is_first = is_first or not text
            else:
                text += ("" if is_first else part.literal) + self._value(row, part.column)
                is_first = False
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BrokenRecordError("not UTF-8", f"{' and '.join(self.columns)}: {error.reason}") from error
        return text

    @staticmethod
    def _is_empty(row: Mapping[str, Any], column: str) -> bool:
        value = in_column(row, column)
        return (
            value is None
            or (isinstance(value, str) and not value.strip())
            or (isinstance(value, float) and math.isnan(value))
        )

    def _value(self, row: Mapping[str, Any], column: str) -> str:
        value = in_column(row, column)
        if value is None and column not in (names := column_names(row)):
            raise BrokenRecordError("no such column", f"no field {column!r}, it has {', '.join(map(repr, names))}")
        if isinstance(value, str):
            return value
        if is_infinite_or_nan(value):
            raise BrokenRecordError("not text", f"field {column!r} holds {value}, not text")
        if not self._is_column and isinstance(value, int | float):
            return str(value)
        raise BrokenRecordError("not text", f"field {column!r} holds {type(value).__name__}, not text")


def in_column(row: Mapping[str, Any], column: str) -> Any:
    """Gives what is in a column of a row, or, of a column that holds others, in `column.inner`; None where there is nothing."""
    outer, _, inner = column.partition(".")
    holder = row.get(outer)
    if inner and column not in row and isinstance(holder, Mapping):
        return holder.get(inner)
    return row.get(column)


def column_names(row: Mapping[str, Any]) -> list[str]:
    """The names that `in_column` takes."""
    held = (f"{outer}.{inner}" for outer, inners in row.items() if isinstance(inners, Mapping) for inner in inners)
    return [*row, *held]


def documents_of_row(row: Mapping[str, Any], template: Template, source: SourceConfig, line: int) -> Iterator[Record]:
    """The documents of one row, cut as `source` says, or what is wrong with it."""
    try:
        text = template.render(row)
        if not text.strip():
            raise BrokenRecordError("empty text", f"{' and '.join(template.columns)} hold nothing but white space")
    except BrokenRecordError as error:
        yield error.at(line, row)
        return
    if source.document == "whole" and len(text) <= (source.max_chars or len(text)):
        yield _document(line, text)
        return
    for piece in assemble(enumerate(StringIO(text, newline="\n")), source.document, source.max_chars):
        yield _document(line, piece.text)


def documents_of_lines(lines: Iterable[tuple[int, str | Rejected]], source: SourceConfig) -> Iterator[Record]:
    """The documents of a text file, from numbered lines. A broken line breaks the document that it belongs to."""
    broken: list[Rejected] = []

    def whole_lines() -> Iterator[tuple[int, str]]:
        for number, line in lines:
            if isinstance(line, Rejected):
                broken.append(line)
                line = "\ufffd\n"  # keeps the document together; never seen, since the document is rejected
            yield number, line

    pieces = assemble(whole_lines(), source.document, source.max_chars, MAX_RECORD_BYTES)
    yield from (_unless_broken(piece, broken) for piece in pieces)


def _unless_broken(piece: LineBlock, broken: list[Rejected]) -> Record:
    # Lines are read ahead of pieces by one at most, and the next piece's may be among them.
    mine = [line for line in broken if piece.line <= line.line <= piece.last]
    broken[:] = [line for line in broken if line.line > piece.last]
    return mine[0] if mine else _document(piece.line, piece.text)


def _document(line: int, text: str | None) -> Record:
    if text is None or (len(text) > MAX_RECORD_BYTES // 4 and len(text.encode()) > MAX_RECORD_BYTES):
        limit = MAX_RECORD_BYTES // 2**20
        return Rejected(line, "too long", f"a document of more than {limit} MiB: cut it with max_chars or document")
    if not text.strip():
        return Rejected(line, "empty text", "nothing but white space")
    return Document(line, text)


def outermost(columns: Iterable[str], names: Collection[str]) -> list[str]:
    """The columns of a table that hold `columns`, of which some lie in others."""
    return list(dict.fromkeys(column if column in names else column.partition(".")[0] for column in columns))


def check_columns(place: str, template: Template, columns: list[str]) -> None:
    """Refuses a table that lacks a column that the source names, or has two of that name.

    Args:
        columns: its names, with those that lie in others, as `in_column` takes them.
    """
    missing = [column for column in template.columns if column not in columns]
    if missing:
        remedy = other_delimiter(columns) or "name the column that holds the text with text: in data.sources"
        raise DataError(
            f"{place} has no column {' or '.join(map(repr, missing))}, it has {', '.join(map(repr, columns))}; {remedy}"
        )
    asked = [*template.columns, *(column.partition(".")[0] for column in template.columns)]
    twice = [column for column in asked if columns.count(column) > 1]
    if twice:
        raise DataError(
            f"{place}: {columns.count(twice[0])} columns are called {twice[0]!r}, and which of them is meant cannot be told: "
            "give them different names"
        )
