"""Sentences that rules of several sections need."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from dist_plm.config.decode import show


def no_effect(section: Any, group: str, names: Iterable[str], reason: str) -> Iterator[str]:
    """Yields a sentence for each of the section's fields that differs from its default though nothing reads it."""
    defaults = {f.name: f.default for f in dataclasses.fields(section)}
    for name in names:
        value = getattr(section, name)
        if value != defaults[name]:
            yield (
                f"{group}.{name} = {show(value)} has no effect with {reason}: "
                f"leave it at its default, {group}.{name}={show(defaults[name])}"
            )
