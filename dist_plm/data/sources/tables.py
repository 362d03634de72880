"""Rows out of tables: Parquet, and Arrow's files and streams."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from dist_plm.core.errors import DataError, reason_of
from dist_plm.data.sources.records import BrokenRecordError, Record, Template, check_columns, documents_of_row
from dist_plm.data.sources.slices import Slice

#: Types of text -> the same as bytes.
_BYTES = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}
#: What Arrow raises over damaged files, beside its own exceptions.
_DAMAGED = (pa.ArrowException, SystemError, MemoryError, OverflowError, ValueError, LookupError)
_BATCH_ROWS = 256
_BATCH_BYTES = 16 * 2**20


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
        check_columns(part.path, template, _names(file.schema_arrow))
        before = sum(file.metadata.row_group(i).num_rows for i in range(part.start))
        groups = list(range(part.start, min(part.stop, file.num_row_groups)))
        size = sum(file.metadata.row_group(i).total_byte_size for i in groups)
        num_rows = sum(file.metadata.row_group(i).num_rows for i in groups)
        batches = file.iter_batches(_batch_rows(size, num_rows), row_groups=groups, columns=template.columns)
        yield from _records(_all_rows(batches, num_rows, part), template, part, before)


def _all_rows(batches: Iterator[pa.RecordBatch], num_rows: int, part: Slice) -> Iterator[pa.RecordBatch]:
    """The batches of row groups, which hold as many rows as the end of the file says."""
    found = 0
    for batch in batches:
        found += batch.num_rows
        yield batch
    if found != num_rows:
        raise DataError(
            f"{part.path} is damaged: its row groups from number {part.start} hold {found:,} rows where its end speaks of "
            f"{num_rows:,}; fetch the file again"
        )


def arrow_records(part: Slice) -> Iterator[Record]:
    """The documents of an Arrow stream (which `datasets` writes) or file (Feather 2).

    Raises:
        DataError: it is damaged or cut short, or lacks a column.
    """
    template = Template(part.source.text)
    with _readable(part.path, "Arrow"), pa.memory_map(part.path) as memory:
        try:
            table = pa.ipc.open_stream(memory)
            batches = _stream_batches(table, memory, part.path)
        except pa.ArrowInvalid:
            memory.seek(0)
            table = pa.ipc.open_file(memory)
            batches = (table.get_batch(i) for i in range(table.num_record_batches))
        check_columns(part.path, template, _names(table.schema))
        pieces = (piece for batch in batches for piece in _pieces(batch))
        yield from _records(pieces, template, part, 0)


def _stream_batches(
    stream: pa.RecordBatchStreamReader, memory: pa.MemoryMappedFile, path: str
) -> Iterator[pa.RecordBatch]:
    """The batches of a stream, which ends with a mark: without it, nobody knows how many there were."""
    num_rows, end = 0, memory.tell()
    for batch in stream:
        end = memory.tell()
        num_rows += batch.num_rows
        yield batch
    if memory.tell() == end:
        raise DataError(
            f"{path}: the stream has no end mark, so it was cut short, after {num_rows:,} rows: fetch or write it again"
        )
    if memory.tell() < memory.size():
        raise DataError(
            f"{path}: after the end of the stream, and {num_rows:,} rows, there are {memory.size() - memory.tell():,} bytes "
            "more: give each of the streams that were joined a file of its own"
        )


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    batch.validate()  # before anything asks for bytes that are not there
    rows = _batch_rows(batch.nbytes, batch.num_rows)
    return (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


def _batch_rows(num_bytes: int, num_rows: int) -> int:
    """Rows to hold at a time, of so many that have so many bytes together."""
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES * num_rows // max(num_bytes, 1)))


def _records(batches: Iterator[pa.RecordBatch], template: Template, part: Slice, row: int) -> Iterator[Record]:
    for batch in batches:
        columns = {name: _values(_column(batch, name)) for name in template.columns}
        for i in range(batch.num_rows):
            row += 1
            values = {name: column[i] for name, column in columns.items()}
            try:
                values = {n: v.decode() if isinstance(v, bytes) else v for n, v in values.items()}
            except UnicodeDecodeError as error:
                yield BrokenRecordError("not UTF-8", f"byte {error.start + 1}: {error.reason}").at(row, values)
            else:
                yield from documents_of_row(values, template, part.source, row)


def _names(schema: pa.Schema) -> list[str]:
    held = (
        f"{field.name}.{inner.name}"
        for field in schema
        if pa.types.is_struct(field.type)
        for inner in field.type.fields
    )
    return [*schema.names, *held]


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    index = batch.schema.get_field_index(name)
    if index >= 0:
        return batch.column(index)
    outer, _, inner = name.partition(".")
    holder = batch.column(batch.schema.get_field_index(outer))
    assert isinstance(holder, pa.StructArray)
    return holder.flatten()[holder.type.get_field_index(inner)]


def _values(column: pa.Array) -> list[Any]:
    """Python values; text as bytes, for Arrow does not see to it that text is UTF-8, nor that it lies in the file."""
    if pa.types.is_dictionary(column.type):
        assert isinstance(column, pa.DictionaryArray)
        words = column.dictionary.view(_BYTES.get(column.dictionary.type, column.dictionary.type))
        words.validate(full=True)
        column = pa.DictionaryArray.from_arrays(column.indices, words).dictionary_decode()
    if column.type in _BYTES:
        column = column.view(_BYTES[column.type])
    column.validate(full=True)
    return column.to_pylist()


@contextmanager
def _readable(path: str, form: str) -> Iterator[None]:
    """Turns the errors of Arrow in the `with` block into refusals."""
    try:
        yield
    except _DAMAGED as error:
        raise DataError(
            f"{path} is not {form}, or is damaged: {reason_of(error, path)}; fetch the file again"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason_of(error, path)}") from error
