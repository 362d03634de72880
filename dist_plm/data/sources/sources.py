"""Finds the documents that there are: the sources of a run, dealt into units, and the documents of each.

Units are of about equal size, so that any number of processes can share the reading. They depend on the sources alone,
and read in order they give the documents in the order of the sources.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dist_plm.core.errors import DataError, reason_of
from dist_plm.core.regular import check_regular
from dist_plm.data.sources.delimited import delimited_records
from dist_plm.data.sources.globs import file_identity, matching_files
from dist_plm.data.sources.lines import COMPRESSIONS, LineCount, decoded_lines, json_records
from dist_plm.data.sources.programs import dataset_records, dataset_slices, function_records, function_slices
from dist_plm.data.sources.quoting import find_quoting
from dist_plm.data.sources.records import Record, Rejected, documents_of_lines
from dist_plm.data.sources.slices import Slice
from dist_plm.data.sources.tables import arrow_records, parquet_records, parquet_slices
from dist_plm.spec.prepare.schema import SourceConfig

#: Suffix of a file, without that of a compression -> format.
FORMATS = {
    ".txt": "text",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
#: Formats that are compressed inside, if at all.
_BINARY = ("parquet", "arrow")
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """Holds what a run reads: `units`, each a list of slices of about equal size together, and a hash of what lies there.

    `num_repeated`: files that more than one source matches; the first reads them."""

    units: list[list[Slice]]
    num_files: int
    num_bytes: int
    fingerprint: str
    num_repeated: int = 0


def find_sources(sources: Iterable[SourceConfig], but: Iterable[Path] = ()) -> SourceFiles:
    """Finds what is behind `sources`, in their order, files by name.

    Args:
        but: directories whose files a source does not match, unless it matches none else.
    Raises:
        DataError: a glob matches nothing, a file is of no known format or cannot be read, a dataset or function cannot be
            found, a table lacks the column, or a dataset's files are a source too.
    """
    wholes: list[Slice] = []
    identities: list[str] = []
    seen: set[tuple[object, ...]] = set()
    num_repeated = 0
    for source in sources:
        slices, identity = _locate(source, [os.path.realpath(path) + os.sep for path in but])
        fresh = [whole for whole in slices if _key(whole) not in seen]
        seen.update(map(_key, fresh))
        num_repeated += len(slices) - len(fresh)
        wholes += fresh
        identities.append(identity)
    _refuse_files_of_datasets(wholes)
    num_bytes = sum(whole.num_bytes for whole in wholes)
    unit_bytes = min(max(num_bytes // 256, _MIB), 64 * _MIB)
    slices = [part for whole in wholes for part in _cut(whole, unit_bytes)]
    fingerprint = hashlib.sha256("\0".join(identities).encode(errors="surrogateescape")).hexdigest()
    num_files = len({(whole.format, whole.path) for whole in wholes})
    return SourceFiles(list(_group(slices, unit_bytes)), num_files, num_bytes, fingerprint, num_repeated)


def _key(whole: Slice) -> tuple[object, ...]:
    """Builds a key that is equal where the same documents would be read twice."""
    if whole.source.path is None:
        return (whole,)
    column = "" if whole.format == "text" else whole.source.text
    return (file_identity(whole.path) or whole.path, column)


def _refuse_files_of_datasets(wholes: Iterable[Slice]) -> None:
    folders = {whole.path: os.path.realpath(whole.path) for whole in wholes if whole.format == "hf"}
    for whole in wholes:
        for name, folder in folders.items():
            if whole.source.path is not None and os.path.realpath(whole.path).startswith(folder + os.sep):
                raise DataError(
                    f"data.sources: {{hf: {name}}} and {{path: {whole.source.path}}} both read what is in {name}, so that its "
                    "documents would count double: leave one of them out"
                )


def read_in_order(sources: SourceFiles) -> Iterator[tuple[Slice, Record]]:
    """Yields all documents and broken records with their slices, placed in their whole files. Raises like `read_slice`."""
    before = 0
    for part in (part for unit in sources.units for part in unit):
        before, count = before if part.goes_on else 0, LineCount()
        for record in read_slice(part, count):
            yield part, record._replace(line=before + record.line)
        before += count.lines


def read_slice(part: Slice, count: LineCount | None = None) -> Iterator[Record]:
    """The documents of a slice, in order, and between them the records that are broken.

    Places count from the slice's beginning where it is cut at bytes; `count` then gets how many lines it has.

    Raises:
        DataError: the whole slice cannot be read: an unreadable file, damaged compression, a table without the column.
    """
    by_line = _LINE_READERS.get(part.format)
    records = by_line(part, count) if by_line else _READERS[part.format](part)
    first = next(records, None)
    if first is not None:
        yield first
        yield from records
    elif part.start == 0 and not part.counts_slices and not (part.is_one_of_many and part.holds_rows):
        yield Rejected(1, "empty text", "there is no record in it")


def _text_records(part: Slice, count: LineCount | None) -> Iterator[Record]:
    return documents_of_lines(decoded_lines(part, count), part.source)


def _delimited_records(part: Slice) -> Iterator[Record]:
    return delimited_records(part, find_quoting(part))


#: Of the formats that can be cut at bytes.
_LINE_READERS: dict[str, Callable[[Slice, LineCount | None], Iterator[Record]]] = {
    "text": _text_records,
    "jsonl": json_records,
}
_READERS: dict[str, Callable[[Slice], Iterator[Record]]] = {
    "csv": _delimited_records,
    "tsv": _delimited_records,
    "parquet": parquet_records,
    "arrow": arrow_records,
    "hf": dataset_records,
    "python": function_records,
}


def _locate(source: SourceConfig, but: Sequence[str]) -> tuple[list[Slice], str]:
    """The slices of a source, files still whole, and what changes when its content does."""
    if source.hf is not None:
        return dataset_slices(source)
    if source.python is not None:
        return function_slices(source)
    slices, identity = [], []
    paths = _matches(source, but)
    for path in paths:
        try:
            stat = os.stat(path)
            check_regular(stat, path)
        except OSError as error:
            raise DataError(f"cannot read {path}: {reason_of(error, path)}") from error
        form = source.format or _format(path)
        assert form is not None, path  # _matches refused it
        slices.append(Slice(source, path, form, 0, stat.st_size, stat.st_size, is_one_of_many=len(paths) > 1))
        identity.append(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n")
    return slices, "".join(identity)


def _matches(source: SourceConfig, but: Sequence[str]) -> list[str]:
    assert source.path is not None
    paths = matching_files(source.path)
    paths = [path for path in paths if not os.path.realpath(path).startswith(tuple(but))] or paths
    for path in paths:
        packed = Path(path).suffix in COMPRESSIONS
        form = source.format or _format(path)
        if form is None or (packed and form in _BINARY):
            raise DataError(
                f"data.sources: {path} is of no format that is read here: {', '.join(FORMATS)}, and text, JSONL and CSV "
                f"also with {' or '.join(COMPRESSIONS)}; say what it is with format:, narrow the pattern "
                f"{source.path!r}, or convert the file"
            )
    return paths


def _format(path: str) -> str | None:
    name = Path(path)
    return FORMATS.get(Path(name.stem).suffix if name.suffix in COMPRESSIONS else name.suffix)


def _cut(whole: Slice, unit_bytes: int) -> Iterator[Slice]:
    if whole.format == "parquet":
        yield from parquet_slices(whole)
        return
    by_line = whole.format == "jsonl" or (whole.format == "text" and whole.source.document == "line")
    if not by_line or whole.path.endswith(COMPRESSIONS) or whole.num_bytes == 0:
        yield whole
        return
    for start in range(0, whole.num_bytes, unit_bytes):
        stop = min(start + unit_bytes, whole.num_bytes)
        yield replace(whole, start=start, stop=stop, num_bytes=stop - start)


def _group(slices: Iterable[Slice], unit_bytes: int) -> Iterator[list[Slice]]:
    unit: list[Slice] = []
    size = 0
    for part in slices:
        if unit and size + part.num_bytes > unit_bytes:
            yield unit
            unit, size = [], 0
        unit.append(part)
        size += part.num_bytes
    if unit:
        yield unit
