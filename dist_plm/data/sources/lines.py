"""Lines out of files, plain or compressed, and rows out of JSON lines. No line is held that is longer than a record may be."""

import gzip
import io
import json
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import zstandard

from dist_plm.core.errors import DataError, reason_of
from dist_plm.core.regular import open_regular
from dist_plm.data.sources.records import (
    MAX_RECORD_BYTES,
    BrokenRecordError,
    Record,
    Rejected,
    Template,
    documents_of_row,
    in_column,
)
from dist_plm.data.sources.slices import Slice

COMPRESSIONS = (".gz", ".zst")
#: At the beginning of a file, and of each that was joined to it.
_BOM = b"\xef\xbb\xbf"
_PROBE_BYTES = 8192
#: Compressed bytes at a time: a block of a frame of repeated text unpacks to thousands of times its size.
_PACKED_BYTES = 4096
_SKIPPED_BYTES = 2**20
#: Stands for what an object gives twice.
_TWICE = object()

Line = tuple[int, bytes | None]


@dataclass(slots=True)
class LineCount:
    """Says, once a slice is read, how many lines begin in it: numbers of the lines of the next one begin after them."""

    lines: int = 0


def decoded_lines(part: Slice, count: LineCount | None = None) -> Iterator[tuple[int, str | Rejected]]:
    """Numbered lines of a slice, Windows line ends made plain, or what is wrong with them.

    Numbers count from the slice's beginning; `count` gets how many there are.

    Raises:
        DataError: the file cannot be read, is no text, or its compression is damaged.
    """
    for number, line in raw_lines(part, count):
        if line is None:
            yield number, Rejected(number, "too long", f"a line of more than {MAX_RECORD_BYTES // 2**20} MiB")
            continue
        if line.endswith(b"\r\n"):
            line = line[:-2] + b"\n"
        try:
            yield number, line.decode()
        except UnicodeDecodeError as error:
            detail = f"byte {error.start + 1} of the line: {error.reason}"
            yield number, Rejected(number, "not UTF-8", detail, line[:200].decode(errors="replace"))


def json_records(part: Slice, count: LineCount | None = None) -> Iterator[Record]:
    """The documents of a slice of a JSON lines file; blank lines are passed over. Numbers are as in `decoded_lines`.

    Raises:
        DataError: the file cannot be read, or is JSON of another kind: an array, or objects over many lines.
    """
    template = Template(part.source.text)
    is_first = part.start == 0
    for number, line in decoded_lines(part, count):
        if isinstance(line, Rejected):
            yield line
        elif line.strip():
            if is_first:
                _refuse_other_json(part.path, line.strip())
                is_first = False
            try:
                row = _json_row(line, template)
            except BrokenRecordError as error:
                yield error.at(number, line)
            else:
                yield from documents_of_row(row, template, part.source, number)


def _refuse_other_json(path: str, first: str) -> None:
    """By the first line with anything on it."""
    if first == "[" or re.match(r"\[\s*\{", first):
        raise DataError(
            f"{path} is one JSON array, not a document a line: turn it into lines, as in jq -c '.[]' FILE > FILE.jsonl"
        )
    if first == "{":
        raise DataError(
            f"{path} has JSON objects that go over many lines, not a document a line: turn them into lines, as in "
            "jq -c . FILE > FILE.jsonl"
        )


def _json_row(line: str, template: Template) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BrokenRecordError("not JSON", reason_of(error)) from error
    if not isinstance(row, dict):
        raise BrokenRecordError("bad row", f"the line holds {type(row).__name__}, not an object with fields")
    twice = named_twice(line, template.columns)
    if twice is not None:
        raise BrokenRecordError("bad row", f"two fields are called {twice!r}")
    return row


def named_twice(line: str, columns: Iterable[str]) -> str | None:
    """The first of `columns` that a JSON object gives twice, of which readers take one or the other; None of none."""
    # Looked at closely only where it may be so: it takes twice the time.
    found = (column for column in columns if _may_be_twice(line, column) and _is_twice(line, column))
    return next(found, None)


def _may_be_twice(line: str, column: str) -> bool:
    return any(line.count(f'"{name}"') > 1 for name in {column, *column.split(".", 1)})


def _is_twice(line: str, column: str) -> bool:
    row = json.loads(line, object_pairs_hook=_marked)
    return any(in_column(row, name) is _TWICE for name in (column, column.partition(".")[0]))


def _marked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(name for name, _ in pairs)
    return {name: _TWICE if counts[name] > 1 else value for name, value in pairs}


def raw_lines(part: Slice, count: LineCount | None = None) -> Iterator[Line]:
    """Numbered lines of a slice, None in place of one that is too long. Counts and raises like `decoded_lines`."""
    number = 0
    with _refused(part.path, lambda: f"{part.path} after line {number}"), open_bytes(part.path) as file:
        for number, line in enumerate(_lines(file, part), 1):
            yield number, line
    if count is not None:
        count.lines = number


def whole_file(path: str) -> bytes:
    """Gives all that is in a file, unpacked. Raises DataError where it cannot be read, or its compression is damaged."""
    with _refused(path, lambda: path), open_bytes(path) as file:
        return file.read()


@contextmanager
def _refused(path: str, where: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise DataError(
            f"{where()}: the compression is damaged or cut short ({error}); fetch the file again"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {reason_of(error, path)}") from error


@contextmanager
def open_bytes(path: str) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked."""
    with open_regular(path) as raw:
        if path.endswith(".gz"):
            with gzip.open(raw) as unpacked:
                yield io.BufferedReader(unpacked, 2**20)  # pyright: ignore[reportArgumentType]
        elif path.endswith(".zst"):
            yield io.BufferedReader(_Zstandard(raw), 2**20)
        else:
            yield raw


class _Zstandard(io.RawIOBase):
    """Unpacks frames one after another. zstandard's own reader takes a frame that is cut short for a whole one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._frame = None
        self._packed = b""
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        while not self._unpacked:
            self._packed = self._packed or self._file.read(_PACKED_BYTES)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the file ends inside a frame")
                return 0
            frame = self._frame or zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
            self._unpacked = memoryview(frame.decompress(self._packed))
            self._frame, self._packed = (None, frame.unused_data) if frame.eof else (frame, b"")
        count = min(len(buffer), len(self._unpacked))
        buffer[:count] = self._unpacked[:count]
        self._unpacked = self._unpacked[count:]
        return count


def _lines(file: BinaryIO, part: Slice) -> Iterator[bytes | None]:
    if part.path.endswith(COMPRESSIONS):
        _refuse_binary(file.peek(_PROBE_BYTES)[:_PROBE_BYTES], part)  # pyright: ignore[reportAttributeAccessIssue]
        while (line := _bounded_line(file)) != (b"", 0):
            yield line[0] and line[0].removeprefix(_BOM)
        return
    _refuse_binary(os.pread(file.fileno(), _PROBE_BYTES, 0), part)
    position = part.start
    if position:
        file.seek(position - 1)
        position += _rest_of_line(file, part.stop - position + 1) - 1  # of one that began in the slice before
    while position < part.stop:
        line, size = _bounded_line(file)
        if not size:
            raise DataError(f"{part.path} became shorter while it was read: start again when it is whole")
        yield line and line.removeprefix(_BOM)
        position += size


def _rest_of_line(file: BinaryIO, most: int) -> int:
    """Bytes of a line that is passed over, as far as `most`."""
    size = 0
    while size < most and (line := file.readline(min(most - size, _SKIPPED_BYTES))):
        size += len(line)
        if line.endswith(b"\n"):
            break
    return size


def _bounded_line(file: BinaryIO) -> tuple[bytes | None, int]:
    """The next line and its size; None where it is longer than a record may be."""
    line = file.readline(MAX_RECORD_BYTES + 1)
    size = len(line)
    if size <= MAX_RECORD_BYTES:
        return line, size
    if not line.endswith(b"\n"):
        size += _rest_of_line(file, sys.maxsize)
    return None, size


def _refuse_binary(head: bytes, part: Slice) -> None:
    if b"\0" in head:
        raise DataError(
            f"{part.path} is not text: there are zero bytes at its beginning (a program, an archive, or text in UTF-16); "
            f"convert it to UTF-8, or narrow the pattern {part.source.path!r}"
        )
