"""Rows that another program gives: a dataset by `datasets`, from the Hub or a local directory, or a Python function."""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from dist_plm.core.errors import DataError, reason_of
from dist_plm.core.parsing import load_json, read_text
from dist_plm.data.sources.records import (
    BrokenRecordError,
    Record,
    Template,
    check_columns,
    column_names,
    documents_of_row,
    outermost,
)
from dist_plm.data.sources.slices import Slice
from dist_plm.spec.prepare.schema import SourceConfig

#: What a source counts for where nobody can say how large it is.
_UNKNOWN_BYTES = 2**20
_SLICE_BYTES = 2**26
#: Of pandas, Polars and others, and of Arrow.
_TABLES = ("DataFrame", "Table")
#: What stops this program, whatever runs at that moment.
_OURS = (KeyboardInterrupt, GeneratorExit)


def dataset_slices(source: SourceConfig) -> tuple[list[Slice], str]:
    """The parts of a dataset, and what identifies it: its files with their revision on the Hub, or their times here.

    Raises:
        DataError: the dataset, its split or a column does not exist, or the Hub cannot be reached.
    """
    num_bytes_known, identity = 0, []
    if _is_saved(source):
        identity = [source.split, *_files_of(Path(source.place))]
    else:
        with _refusals(source):
            import datasets

            builder = datasets.load_dataset_builder(source.place, source.name, revision=source.revision)
            files = (builder.config.data_files or {}).get(source.split)
            identity = [builder.cache_dir, source.split, getattr(files, "origin_metadata", None)]
            known = (builder.info.splits or {}).get(source.split)
            num_bytes_known = known.num_bytes if known is not None else 0
    dataset = _dataset(source)
    if dataset.column_names is not None:
        names = column_names(dataset.features or dict.fromkeys(dataset.column_names))
        check_columns(f"dataset {source.place!r}", Template(source.text), names)
    if source.streaming:
        num_bytes = num_bytes_known
        count, step = dataset.num_shards, 1
    else:
        num_bytes, count = dataset.data.nbytes, dataset.num_rows
        step = max(count * _SLICE_BYTES // max(num_bytes, 1), 1)
    size = max(num_bytes * step // max(count, 1), 1) if num_bytes else _UNKNOWN_BYTES
    starts = range(0, count, step)
    slices = [Slice(source, source.place, "hf", start, min(start + step, count), size) for start in starts]
    return slices, hashlib.sha256(repr(identity).encode()).hexdigest()


def _is_saved(source: SourceConfig) -> bool:
    """Whether it is a directory that `save_to_disk` of `datasets` wrote, which has a door of its own."""
    return any((Path(source.place) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _files_of(folder: Path) -> list[tuple[str, int, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def dataset_records(part: Slice) -> Iterator[Record]:
    """The documents of rows or shards of a dataset; raises like `dataset_slices`."""
    dataset, template = _dataset(part.source), Template(part.source.text)
    with _refusals(part.source):
        if part.source.streaming:
            rows = dataset.shard(num_shards=dataset.num_shards, index=part.start)
        else:
            held = dataset.select_columns(outermost(template.columns, dataset.column_names))
            rows = held.select(range(part.start, part.stop))
        first = 1 if part.source.streaming else part.start + 1
        for number, row in enumerate(rows, first):
            yield from documents_of_row(row, template, part.source, number)


def function_slices(source: SourceConfig) -> tuple[list[Slice], str]:
    """A function is one part, identified by its module's file. Raises DataError where there is no such function."""
    path = getattr(sys.modules[_function(source).__module__], "__file__", None)
    digest = hashlib.sha256(Path(path).read_bytes() if path else b"").hexdigest()
    return [Slice(source, source.place, "python", 0, 1, _UNKNOWN_BYTES)], digest


def function_records(part: Slice) -> Iterator[Record]:
    """The documents of what the function gives, texts or rows; raises DataError where it raises anything."""
    template = Template(part.source.text)
    with _refusals(part.source):
        for number, item in enumerate(_items(part.source), 1):
            row = {template.columns[0]: item} if isinstance(item, str) and len(template.columns) == 1 else item
            if isinstance(row, Mapping):
                yield from documents_of_row(row, template, part.source, number)
            else:
                yield BrokenRecordError("bad row", f"{type(item).__name__}, neither text nor a row").at(number, item)


def _items(source: SourceConfig) -> Iterable[Any]:
    """Calls the function, which gives several: one text would be read letter by letter, one table by its columns."""
    given = _function(source)()
    is_one = isinstance(given, str | bytes | Mapping) or type(given).__name__ in _TABLES
    if is_one or not any(hasattr(given, name) for name in ("__iter__", "__getitem__")):
        what = "None" if given is None else f"one {type(given).__name__}"
        raise DataError(
            f"data.sources: {source.place} gives {what}, not texts or rows one after another: yield them, one by one"
        )
    return given


@lru_cache(maxsize=4)
def _dataset(source: SourceConfig) -> Any:
    with _refusals(source):
        import datasets

        if _is_saved(source):
            _check_saved(Path(source.place))
            return _saved(source, datasets.load_from_disk(source.place))
        place: dict[str, Any] = {"path": source.hf, "name": source.name, "revision": source.revision}
        return datasets.load_dataset(**place, split=source.split, streaming=source.streaming)


def _check_saved(folder: Path) -> None:
    """Refuses what `save_to_disk` wrote of a dataset, or of one of its splits, without rows: `datasets` cannot open it."""
    for state in (*folder.glob("state.json"), *sorted(folder.glob("*/state.json"))):
        if load_json(read_text(state)).get("_data_files") == []:
            others = "" if state.parent == folder else f", and name one of the others as {{hf: {folder}/SPLIT}}"
            raise DataError(f"data.sources: {state.parent} is an empty dataset: leave it out{others}")


def _saved(source: SourceConfig, saved: Any) -> Any:
    """The split of what `save_to_disk` wrote: of a dataset without splits, the whole."""
    unread = [name for name in ("name", "revision", "streaming") if getattr(source, name)]
    if unread:
        raise DataError(
            f"data.sources: {unread[0]} has no effect on {source.place}, which save_to_disk wrote: leave it out"
        )
    splits = list(saved) if isinstance(saved, dict) else [str(saved.split or "train")]
    if source.split not in splits:
        raise DataError(
            f"data.sources: {source.place} has no split {source.split!r}, it has {', '.join(splits)}: name one with split:"
        )
    return saved[source.split] if isinstance(saved, dict) else saved


def _function(source: SourceConfig) -> Callable[[], Iterable[Any]]:
    module_name, _, name = source.place.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a script's own directory is there, the user's is not
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"data.sources: cannot find {source.place!r}: {reason_of(error)}, seen from {os.getcwd()}"
        ) from error
    except _OURS:
        raise
    except BaseException as error:  # what another program raises is not known
        raise DataError(_raised(source, error)) from error
    if not callable(function):
        raise DataError(f"data.sources: {source.place!r} is not a function")
    _check_arguments(source, function)
    return function  # pyright: ignore[reportReturnType]


def _check_arguments(source: SourceConfig, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a function in C
        return
    try:
        signature.bind()
    except TypeError as error:
        raise DataError(
            f"data.sources: {source.place} is called without arguments, and it asks for some ({error}): give each a default"
        ) from error


@contextmanager
def _refusals(source: SourceConfig) -> Iterator[None]:
    """Turns whatever the other program raises in the `with` block into a refusal."""
    try:
        yield
    except (DataError, *_OURS):
        raise
    except BaseException as error:  # what another program raises is not known
        place, reason = source.place, reason_of(error)
        if source.python is not None:
            raise DataError(_raised(source, error)) from error
        remedy = "check its name, split and the network"
        if os.path.isdir(place):
            remedy = (
                f"if its files are tables or text, name them: {{path: {place}/*.arrow}}, *.parquet, *.jsonl or *.txt"
            )
        elif isinstance(error, ConnectionError):
            remedy = (
                "check the name and the network; a copy in a directory opens with {hf: DIRECTORY}, its files with "
                "{path: DIRECTORY/*.parquet} or {path: DIRECTORY/*.arrow}"
            )
        raise DataError(f"data.sources: cannot read the dataset {place!r}: {reason}; {remedy}") from error


def _raised(source: SourceConfig, error: BaseException) -> str:
    theirs = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    where = f" at {theirs[-1].filename}, line {theirs[-1].lineno}" if theirs else ""
    return f"data.sources: {source.place} raised {type(error).__name__}{where}: {reason_of(error)}"
