"""Sentences that rules of several sections need."""

import dataclasses
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
