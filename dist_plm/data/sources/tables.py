"""Rows out of tables: CSV, Parquet, and Arrow's files and streams."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from dist_plm.core.errors import DataError
from dist_plm.data.sources.lines import raw_lines
from dist_plm.data.sources.records import (
    MAX_RECORD_BYTES,
    BrokenRecordError,
    Record,
    Rejected,
    Template,
    documents_of_row,
)
from dist_plm.data.sources.slices import Slice

_BATCH_ROWS = 256
_BATCH_BYTES = 16 * 2**20


def csv_records(part: Slice) -> Iterator[Record]:
    """The documents of a CSV or TSV file whose first row names the columns (RFC 4180); blank lines are passed over.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """
    csv.field_size_limit(MAX_RECORD_BYTES)
    too_long: list[int] = []
    reader = csv.reader(_csv_lines(part, too_long), delimiter="\t" if part.format == "tsv" else ",", strict=True)
    template = Template(part.source.text)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield Rejected(line, "bad row", str(error))
            continue
        yield from (Rejected(number, "too long", "a line of more bytes than a record may have") for number in too_long)
        too_long.clear()
        if row is None:
            return
        if header is None:
            header = row
            check_columns(part.path, template, header)
        elif len(row) == len(header):
            yield from documents_of_row(dict(zip(header, row, strict=True)), template, part.source, line)
        elif row:
            detail = f"{len(row)} fields where the header has {len(header)}"
            yield BrokenRecordError("bad row", detail).at(line, ",".join(row))


def _csv_lines(part: Slice, too_long: list[int]) -> Iterator[str]:
    for number, line in raw_lines(part):
        if line is None:
            too_long.append(number)
        # What is not UTF-8 passes the parser as surrogates and is rejected with its row.
        yield "\n" if line is None else line.decode(errors="surrogateescape").replace("\r\n", "\n")


def parquet_slices(part: Slice) -> Iterator[Slice]:
    """The file cut at its row groups, each with its share of the bytes. Raises DataError where it is no Parquet."""
    with _readable(part.path, "Parquet"), pq.ParquetFile(part.path) as file:
        sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)] or [0]
    for i, size in enumerate(sizes):
        share = part.num_bytes * size // max(sum(sizes), 1)
        yield replace(part, start=i, stop=i + 1, num_bytes=share)


def parquet_records(part: Slice) -> Iterator[Record]:
    """The documents of row groups; raises DataError where the file is damaged or lacks a column."""
    template = Template(part.source.text)
    with _readable(part.path, "Parquet"), pq.ParquetFile(part.path, buffer_size=2**20) as file:
        check_columns(part.path, template, file.schema_arrow.names)
        before = sum(file.metadata.row_group(i).num_rows for i in range(part.start))
        groups = list(range(part.start, min(part.stop, file.num_row_groups)))
        size = sum(file.metadata.row_group(i).total_byte_size for i in groups)
        rows = _batch_rows(size, sum(file.metadata.row_group(i).num_rows for i in groups))
        batches = file.iter_batches(rows, row_groups=groups, columns=template.columns)
        yield from _records(batches, template, part, before)


def arrow_records(part: Slice) -> Iterator[Record]:
    """The documents of an Arrow stream (which `datasets` writes) or file (Feather 2); raises like `parquet_records`."""
    template = Template(part.source.text)
    with _readable(part.path, "Arrow"), pa.memory_map(part.path) as memory:
        try:
            table = pa.ipc.open_stream(memory)
            batches: Iterator[pa.RecordBatch] = iter(table)
        except pa.ArrowInvalid:
            memory.seek(0)
            table = pa.ipc.open_file(memory)
            batches = (table.get_batch(i) for i in range(table.num_record_batches))
        check_columns(part.path, template, table.schema.names)
        pieces = (piece for batch in batches for piece in _pieces(batch))
        yield from _records(pieces, template, part, 0)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    rows = _batch_rows(batch.nbytes, batch.num_rows)
    return (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


def _batch_rows(num_bytes: int, num_rows: int) -> int:
    """Rows to hold at a time, of so many that have so many bytes together."""
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * num_rows // max(num_bytes, 1)))


def check_columns(place: str, template: Template, columns: list[str]) -> None:
    """Refuses a table that lacks a column that the source names."""
    missing = [column for column in template.columns if column not in columns]
    if missing:
        raise DataError(
            f"{place} has no column {' or '.join(map(repr, missing))}, it has {', '.join(map(repr, columns))}; name the "
            "column that holds the text with text: in data.sources"
        )


def _records(batches: Iterator[pa.RecordBatch], template: Template, part: Slice, row: int) -> Iterator[Record]:
    for batch in batches:
        columns = {name: _values(batch.column(name)) for name in template.columns}
        for i in range(batch.num_rows):
            row += 1
            values = {name: column[i] for name, column in columns.items()}
            try:
                values = {n: v.decode() if isinstance(v, bytes) else v for n, v in values.items()}
            except UnicodeDecodeError as error:
                yield BrokenRecordError("not UTF-8", f"byte {error.start + 1}: {error.reason}").at(row, values)
            else:
                yield from documents_of_row(values, template, part.source, row)


def _values(column: pa.Array) -> list[Any]:
    """Python values; text as bytes, for Arrow does not see to it that text is UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()  # pyright: ignore[reportAttributeAccessIssue]
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if any(kind(column.type) for kind in kinds):
        column = column.cast(pa.large_binary())
    return column.to_pylist()


@contextmanager
def _readable(path: str, form: str) -> Iterator[None]:
    """Turns the errors of Arrow in the `with` block into refusals."""
    try:
        yield
    except pa.ArrowException as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"{path} is not {form}, or is damaged: {reason}; fetch the file again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
