"""Labelled rows out of files, each with the place where a person finds it."""

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, starmap
from pathlib import Path
from typing import Any, NamedTuple

from dist_plm.core.errors import DataError, reason_of
from dist_plm.data.labelled.arrow_tables import rows_of_table
from dist_plm.data.labelled.conll import read_conll
from dist_plm.data.labelled.squad import is_article, questions_of
from dist_plm.data.sources.delimited import NAMES_AGAIN, delimiter_of, rows, text_lines
from dist_plm.data.sources.lines import COMPRESSIONS, decoded_lines, named_twice, whole_file
from dist_plm.data.sources.quoting import find_quoting
from dist_plm.data.sources.records import Rejected, column_names
from dist_plm.data.sources.slices import Slice
from dist_plm.spec.prepare.schema import SourceConfig

#: Suffix of a file, without that of a compression -> format.
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".conll": "conll",
    ".txt": "conll",
    **dict.fromkeys((".train", ".testa", ".testb"), "conll"),  # as CoNLL-2002 and 2003 name theirs: eng.testa
}
#: Half of a character of two, as JSON writes it, and as Python holds it.
_HALF, _SURROGATE = re.compile(r"\\u[dD][89a-fA-F]"), re.compile("[\ud800-\udfff]")


class LabelledRow(NamedTuple):
    """A row by column, and where it stands."""

    place: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowFile:
    """Rows of a file or saved dataset, which can be read again and again.

    Args:
        key: the setting that names it.
        path: where it is.
        split: of a saved dataset that has several.
        header: names the columns of CSV and TSV files without a line that does; empty where there is one.
        most: rows that are read; None for all.
        kept: tells which of these are given; None for all.
    """

    key: str
    path: str
    split: str
    header: tuple[str, ...] = ()
    most: int | None = None
    kept: Callable[[LabelledRow], bool] | None = None

    def __iter__(self) -> Iterator[LabelledRow]:
        """Reads the rows.

        Raises:
            DataError: there is no such file, it is of no known format, damaged, or holds a broken row.
        """
        found = islice(self._rows(), self.most)
        return found if self.kept is None else filter(self.kept, found)

    def _rows(self) -> Iterator[LabelledRow]:
        path = Path(self.path)
        if path.is_dir():
            return _saved_rows(self)
        if not path.is_file():
            how = "is no ordinary file, or a link that leads to none" if os.path.lexists(path) else "is not there"
            raise DataError(f"{self.key} = {self.path} {how}, seen from {Path.cwd()}")
        form = self._format
        if form is None:
            raise DataError(
                f"{self.key} = {self.path} is of no format that is read here: {', '.join(FORMATS)}, text also with "
                f"{' or '.join(COMPRESSIONS)}, or a directory that save_to_disk of datasets wrote"
            )
        return _READERS[form](self, form)

    @property
    def _format(self) -> str | None:
        path = Path(self.path)
        return FORMATS.get(Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix)

    @property
    def rows_differ(self) -> bool:
        """Whether each row names its own columns, as JSON does."""
        return not Path(self.path).is_dir() and self._format in ("json", "jsonl")

    def label_names(self, column: str) -> tuple[str, ...]:
        """The names that a saved dataset gives the numbers in a column; empty where it gives none."""
        if not Path(self.path).is_dir():
            return ()
        return tuple(_class_names(_saved(self).features.get(column)))


def _slice(file: RowFile, form: Any) -> Slice:
    size = Path(file.path).stat().st_size
    return Slice(SourceConfig(path=file.path), file.path, form, 0, size, size)


def _delimited_rows(file: RowFile, form: str) -> Iterator[LabelledRow]:
    part, too_long = _slice(file, form), []
    header = list(file.header) or None
    for row in rows(text_lines(part, too_long), delimiter_of(part), find_quoting(part, "")):
        place = f"{file.path}, line {row.line}"
        if row.error is not None or too_long:
            raise DataError(f"{place}: {row.error or 'a line is longer than a row may be'}; mend the row")
        if header is None:
            header = row.fields
            if len(set(header)) < len(header):
                raise DataError(f"{place}: two columns are called the same; give them different names")
            continue
        if row.fields == header:
            own = "; remove it, or leave data.header out where the file's first line names the columns"
            raise DataError(f"{place} holds {NAMES_AGAIN}{own if file.header else '; remove the line'}")
        if len(row.fields) != len(header):
            named = "data.header" if file.header else "the header"
            raise DataError(
                f"{place}: {len(row.fields)} fields where {named} has {len(header)}; mend the row, or see whether the file has "
                f"another {'delimiter' if len(row.fields) == 1 else 'quoting'}"
            )
        yield LabelledRow(place, dict(zip(header, _unicode(row.fields, place), strict=True)))


def _unicode(fields: list[str], place: str) -> list[str]:
    try:
        for text in fields:
            text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: the text is not UTF-8; convert the file") from None
    return fields


def _json_lines(file: RowFile, form: str) -> Iterator[LabelledRow]:
    for number, line in decoded_lines(_slice(file, "jsonl")):
        place = f"{file.path}, line {number}"
        if isinstance(line, Rejected):
            raise DataError(f"{place}: {line.reason}, {line.detail}; mend the line")
        if line.strip():
            yield _json_row(line, place)


def _json_row(line: str, place: str) -> LabelledRow:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON, {reason_of(error)}; each line has to hold one object") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: the line holds {type(row).__name__}, not an object with fields")
    _refuse_twice(named_twice(line, column_names(row)), place)
    return _in_unicode(LabelledRow(place, row), _HALF.search(line) is not None)


def _refuse_twice(name: str | None, place: str) -> None:
    if name is not None:
        raise DataError(f"{place}: two fields are called {name!r}, and which is meant cannot be told: mend the row")


class _Object(dict[str, Any]):
    """Holds the fields of a JSON object.

    Args:
        twice: the first that it gives twice.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs] if len(self) < len(pairs) else []
        self.twice = next((name for name in self if names.count(name) > 1), None)


def _in_unicode(row: LabelledRow, halves: bool) -> LabelledRow:
    """Gives a row whose texts no half of a character is in, which JSON can write (`\\ud83d` alone) and no tokenizer reads.

    Args:
        halves: the JSON that it is in writes some characters as two halves.
    Raises:
        DataError: there is one.
    """
    if halves and _SURROGATE.search(json.dumps(row.values, ensure_ascii=False)):
        raise DataError(
            f"{row.place}: a text holds half of a character, \\ud800 to \\udfff alone: mend or remove the row"
        )
    return row


def _json_array(file: RowFile, form: str) -> Iterator[LabelledRow]:
    """A list of objects, or one under `data`, which may be SQuAD's articles; else lines."""
    written = whole_file(file.path)
    try:
        content = json.loads(written, object_pairs_hook=_Object)
        halves = _HALF.search(written.decode(json.detect_encoding(written), "surrogatepass")) is not None
    except (ValueError, RecursionError):
        yield from _json_lines(file, form)
        return
    found = content.get("data") if isinstance(content, _Object) else content
    if isinstance(content, _Object) and not isinstance(found, list):
        _refuse_twice(content.twice, f"{file.path}, line 1")
        yield _in_unicode(LabelledRow(f"{file.path}, line 1", content), halves)
        return
    if not isinstance(found, list | None):
        raise DataError(
            f"{file.path} holds {type(found).__name__}, not a list of objects with fields: name another file"
        )
    for number, row in enumerate(found or [], 1):
        place = f"{file.path}, item {number}"
        if not isinstance(row, _Object):
            raise DataError(f"{place} is {type(row).__name__}, not an object with fields")
        _refuse_twice(row.twice, place)
        if is_article(row):
            yield from (_in_unicode(one, halves) for one in starmap(LabelledRow, questions_of(row, place)))
        else:
            yield _in_unicode(LabelledRow(place, row), halves)


def _table_rows(file: RowFile, form: str) -> Iterator[LabelledRow]:
    for number, row in enumerate(rows_of_table(file.path, form), 1):
        yield LabelledRow(f"{file.path}, row {number}", row)


def _conll_rows(file: RowFile, form: str) -> Iterator[LabelledRow]:
    for line, words, tags in read_conll(decoded_lines(_slice(file, "text")), file.path):
        yield LabelledRow(f"{file.path}, line {line}", {"tokens": words, **({"tags": tags} if tags else {})})


def _saved_rows(file: RowFile) -> Iterator[LabelledRow]:
    dataset = _saved(file)
    names = {column: found for column, kind in dataset.features.items() if (found := _class_names(kind))}
    for number, row in enumerate(dataset, 1):
        place = f"{file.path} ({file.split}), row {number}"
        yield LabelledRow(place, {column: _named(value, names.get(column, ())) for column, value in row.items()})


def _saved(file: RowFile) -> Any:
    # Takes seconds to load.
    import datasets

    try:
        saved = datasets.load_from_disk(file.path)
    except Exception as error:  # what another program raises is not known
        raise DataError(
            f"{file.key} = {file.path} is a directory that datasets cannot open: {reason_of(error, file.path)}; give a file, "
            "or what save_to_disk wrote"
        ) from None
    if not isinstance(saved, dict):
        return saved
    splits = list(map(str, saved))
    found = [name for name in splits if name == file.split or name.startswith(f"{file.split}_")]
    if not found:
        raise DataError(f"{file.key} = {file.path} has no split {file.split!r}, it has {', '.join(splits)}")
    return saved[found[0]]


def _class_names(kind: Any) -> list[str]:
    """Names of a column of classes, or of lists of classes."""
    return getattr(kind, "names", None) or getattr(getattr(kind, "feature", None), "names", None) or []


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


_READERS: dict[str, Callable[[RowFile, str], Iterator[LabelledRow]]] = {
    "csv": _delimited_rows,
    "tsv": _delimited_rows,
    "jsonl": _json_lines,
    "json": _json_array,
    "parquet": _table_rows,
    "arrow": _table_rows,
    "conll": _conll_rows,
}
