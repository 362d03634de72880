"""Keeps what a command writes apart from the files that it reads."""

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_plm.config.decode import encode, show
from dist_plm.config.stored_paths import PATHS
from dist_plm.core.errors import ConfigError

#: Settings of commands that ask a model, and name files.
_ASKED_OF_MODELS = (
    "from",
    "tokenizer",
    "prompts",
    "data.text",
    "data.rows",
    "data.train_rows",
    "data.against",
    "predictions",
)
#: End the names of the two files of a store that is named without them.
_PAIR = (".bin", ".idx")
#: Begins what commands write of a model: its measures, or a line for each row.
_RESULTS = re.compile(rb'\{\s*"(?:model|row|source)":')


def check_not_read(key: str, file: str, config: Any) -> None:
    """Sees to it that the file that a command is to write is none that another of its settings names, and none of a directory
    that another names, as of a run or a store, but for earlier results.

    Args:
        key: of the setting that names it.
    Raises:
        ConfigError: it is, and would be replaced.
    """
    settings = encode(config)
    for other in (*PATHS, *_ASKED_OF_MODELS):
        for path in _values_at(settings, other.split(".")):
            is_it = other != key and any(_is_same(file, one) for one in _files_of(path))
            if is_it or (other != key and _is_part(file, path)):
                what = "the file" if is_it else "a file"
                raise ConfigError(
                    [f"{key} = {show(file)} is {what} of {other} = {show(path)}, and would replace it: name another"]
                )


def _values_at(value: Any, key: Sequence[str]) -> Iterator[str]:
    """Yields the texts at a dotted key, of each item of a list."""
    if isinstance(value, list):
        for item in value:
            yield from _values_at(item, key)
    elif not key:
        if isinstance(value, str) and value and "://" not in value:
            yield value
    elif isinstance(value, Mapping) and key[0] in value:
        yield from _values_at(value[key[0]], key[1:])


def _files_of(path: str) -> list[str]:
    """Lists what a setting may mean: a file, a pair, or all that a pattern matches."""
    matched = glob.glob(path, recursive=True) if glob.has_magic(path) else []
    return [path, *(path + end for end in _PAIR), *matched]


def _is_part(file: str, directory: str) -> bool:
    """Tells whether a file is there, in a directory that is read, and holds other than results."""
    try:
        if not os.path.isfile(file) or not os.path.isdir(directory):
            return False
        if not Path(file).resolve().is_relative_to(Path(directory).resolve()):
            return False
        with open(file, "rb") as content:
            return _RESULTS.match(content.read(64)) is None
    except (OSError, ValueError):  # as below
        return False


def _is_same(one: str, other: str) -> bool:
    try:
        if os.path.exists(one) and os.path.exists(other):
            return os.path.samefile(one, other)
        return os.path.realpath(one) == os.path.realpath(other)
    except (OSError, ValueError):  # neither can be written then, which others tell of
        return False
