"""Sentences that rules of several sections need."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from dist_plm.config.decode import show


def no_effect(section: Any, group: str, names: Iterable[str], reason: str) -> Iterator[str]:
    """Yields a sentence for each of the section's fields that differs from its default though nothing reads it."""
    defaults = {
        f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        for f in dataclasses.fields(section)
    }
    for name in names:
        value = getattr(section, name)
        if value != defaults[name]:
            key = f"{group}.{name}" if group else name
            yield f"{key} = {show(value)} has no effect with {reason}: leave it at its default, {key}={show(defaults[name])}"


def repeated(names: Iterable[str]) -> list[str]:
    """Lists those that occur more than once, each once, in their order."""
    return [name for name, times in Counter(names).items() if times > 1]


def split_problems(key: str, split: tuple[float, float, float]) -> Iterator[str]:
    """Shares of train, validation and test: none negative, some of it train, 1 together."""
    if min(split) < 0 or split[0] == 0:
        yield f"{key} = {show(split)} is not allowed: shares are 0 or more, and the first, of training, more than 0"
    elif abs(sum(split) - 1) > 1e-6:
        yield f"{key} = {show(split)} sums to {sum(split):g}: train, validation and test together must make 1"


def header_problems(header: tuple[str, ...], files: Iterable[str | None]) -> Iterator[str]:
    """`data.header` names each column once, and one of `files` may need it."""
    if len(set(header)) < len(header):
        yield f"data.header = {show(header)} names a column twice: give each a name of its own"
    given = [file for file in files if file is not None]
    if header and given and not any(map(may_lack_names, given)):
        yield (
            f"data.header = {show(header)} has no effect with {' and '.join(given)}: it names the columns of .csv and .tsv "
            "files without a line that does; leave it out"
        )


def may_lack_names(file: str) -> bool:
    """Tells whether a file is of a format in which nothing but a first line, if there is one, names the columns."""
    return re.search(r"\.[ct]sv(\.\w+)?$", file) is not None
