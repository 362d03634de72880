"""Documents out of files: plain text and JSONL, each also gzipped.

Files are dealt into units of about equal size, large line-by-line files into several, so that any number of processes
can share the reading. Units depend on the files alone, and read in order they give the documents in the order of the
files.
"""

import glob
import gzip
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dist_plm.config.schema_prepare import SourceConfig
from dist_plm.errors import DataError

FORMATS = (".txt", ".jsonl")
_MIB = 2**20
_BOM = b"\xef\xbb\xbf"


class Document(NamedTuple):
    """A text and the line it began on; (file, line) is where a person finds it."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Slice:
    """Bytes [start, stop) of a file; a line belongs to the slice in which it begins. Compressed files come whole."""

    source: SourceConfig
    path: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """What a run reads: `units`, each a list of slices of about equal size together, and a hash of what lies there."""

    units: list[list[Slice]]
    num_files: int
    num_bytes: int
    fingerprint: str


def find_sources(sources: Iterable[SourceConfig]) -> SourceFiles:
    """The files behind the globs of `sources`, in order of source, then name.

    Raises:
        DataError: a glob matches nothing, or a file is of no known format or cannot be read.
    """
    files = [(source, path) for source in sources for path in _matches(source)]
    digest, sizes = hashlib.sha256(), []
    for _, path in files:
        try:
            stat = os.stat(path)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}") from error
        sizes.append(stat.st_size)
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    total = sum(sizes)
    unit_bytes = min(max(total // 256, _MIB), 64 * _MIB)
    slices = [part for file, size in zip(files, sizes, strict=True) for part in _cut(*file, size, unit_bytes)]
    return SourceFiles(list(_group(slices, unit_bytes)), len(files), total, digest.hexdigest())


def read_slice(part: Slice) -> Iterator[Document]:
    """The documents of a slice, in order. Line ends of text files become a plain newline.

    Raises:
        DataError: naming file and line: not UTF-8, not JSON, no such field, or damaged compression.
    """
    path, source = Path(part.path), part.source
    lines = _decoded_lines(part)
    if _format(path) == ".txt":
        yield from assemble(lines, source.document, source.max_chars)
        return
    for number, line in lines:
        if line.strip():
            text = _json_text(line, source.text, part, number)
            if source.document == "whole" and len(text) <= (source.max_chars or len(text)):
                yield Document(number, text)
            else:
                pieces = assemble(enumerate(StringIO(text, newline="\n")), source.document, source.max_chars)
                yield from (Document(number, piece.text) for piece in pieces)


def assemble(lines: Iterable[tuple[int, str]], unit: str, max_chars: int | None) -> Iterator[Document]:
    """Documents from numbered lines (each with its newline).

    Args:
        unit: "whole": one document of all lines; "block": one a run of lines without blank ones; "line": one a line.
        max_chars: longer documents are cut after the last blank line that fits, else after the last line that fits; a
            line is never cut.
    Pieces and blocks come without blank lines around them, and never without any text.
    """
    if unit == "whole" and max_chars is None:
        numbered = list(lines)
        if numbered:
            yield Document(numbered[0][0], "".join(text for _, text in numbered))
        return
    limit = sys.maxsize if max_chars is None else max_chars
    held: list[str] = []
    size, after = 0, 0  # characters held, number of the last line held
    for number, line in lines:
        if unit == "line" or (unit == "block" and not line.strip()):
            yield from _joined(held, after)
            held, size = [], 0
        while held and size + len(line) > limit:
            fits = next((i for i in range(len(held), 0, -1) if not held[i - 1].strip()), len(held))
            yield from _joined(held[:fits], after - len(held) + fits)
            held = held[fits:]
            size = sum(map(len, held))
        held.append(line)
        size += len(line)
        after = number
    yield from _joined(held, after)


def _joined(lines: list[str], last: int) -> Iterator[Document]:
    start, stop = 0, len(lines)
    while start < stop and not lines[start].strip():
        start += 1
    while start < stop and not lines[stop - 1].strip():
        stop -= 1
    if start < stop:
        yield Document(last - len(lines) + 1 + start, "".join(lines[start:stop]).removesuffix("\n"))


def _matches(source: SourceConfig) -> list[str]:
    paths = sorted(path for path in glob.glob(source.path, recursive=True) if not os.path.isdir(path))
    if not paths:
        hint = f"seen from {os.getcwd()}"
        if os.path.isdir(source.path):
            hint = f"it is a directory, whose text files are {source.path.rstrip('/')}/*.txt"
        raise DataError(f"data.sources: no file matches {source.path!r}, {hint}")
    for path in paths:
        if _format(Path(path)) not in FORMATS:
            raise DataError(
                f"data.sources: {path} is of no format that is read here: {', '.join(FORMATS)}, each also with .gz; "
                f"narrow the pattern {source.path!r} or convert the file"
            )
    return paths


def _format(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _cut(source: SourceConfig, path: str, size: int, unit_bytes: int) -> Iterator[Slice]:
    by_line = _format(Path(path)) == ".jsonl" or source.document == "line"
    step = unit_bytes if by_line and not path.endswith(".gz") else max(size, 1)
    for start in range(0, size, step):
        yield Slice(source, path, start, min(start + step, size))


def _group(slices: Iterable[Slice], unit_bytes: int) -> Iterator[list[Slice]]:
    unit: list[Slice] = []
    size = 0
    for part in slices:
        if unit and size + part.stop - part.start > unit_bytes:
            yield unit
            unit, size = [], 0
        unit.append(part)
        size += part.stop - part.start
    if unit:
        yield unit


def _decoded_lines(part: Slice) -> Iterator[tuple[int, str]]:
    """Numbered lines of a slice; numbers count from the slice's start, `_at` turns them into the file's."""
    number = 0
    try:
        with open(part.path, "rb") as raw:
            for number, line in enumerate(_raw_lines(raw, part), 1):
                if line.endswith(b"\r\n"):
                    line = line[:-2] + b"\n"
                yield number, line.decode()
    except UnicodeDecodeError as error:
        where = f"{_at(part, number)}, byte {error.start + 1}"
        raise DataError(f"{where} is not UTF-8 ({error.reason}); convert the file") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        where = f"{part.path} after line {number}"
        raise DataError(f"{where}: the compression is damaged or cut short ({error}); fetch the file again") from error
    except OSError as error:
        raise DataError(f"cannot read {part.path}: {error.strerror}") from error


def _raw_lines(file: BinaryIO, part: Slice) -> Iterator[bytes]:
    if part.path.endswith(".gz"):
        with gzip.open(file) as unpacked:
            for i, line in enumerate(unpacked):
                yield line if i else line.removeprefix(_BOM)
        return
    position = part.start
    if position:
        file.seek(position - 1)
        position += len(file.readline()) - 1  # the rest of a line that began in the slice before
    while position < part.stop:
        line = file.readline()
        if not line:
            raise DataError(f"{part.path} became shorter while it was read: start again when it is whole")
        yield line if position else line.removeprefix(_BOM)
        position += len(line)


def _at(part: Slice, number: int) -> str:
    if part.start:
        with open(part.path, "rb") as file:
            number += sum(1 for _ in _raw_lines(file, Slice(part.source, part.path, 0, part.start)))
    return f"{part.path}, line {number}"


def _json_text(line: str, field: str, part: Slice, number: int) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{_at(part, number)} is not JSON: {error}") from error
    if not isinstance(row, dict) or field not in row:
        has = ", ".join(map(repr, row)) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise DataError(f"{_at(part, number)} has no field {field!r}, it has {has}; name the field in data.sources")
    text = row[field]
    if not isinstance(text, str):
        raise DataError(f"{_at(part, number)}: field {field!r} holds {type(text).__name__}, not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{_at(part, number)}: field {field!r} is not Unicode text ({error.reason})") from error
    return text
