"""Finds the columns that a task reads among those of a file."""

from collections.abc import Iterable, Mapping
from typing import Any

from dist_plm.config.suggest import did_you_mean, near
from dist_plm.core.errors import DataError
from dist_plm.core.parsing import other_delimiter
from dist_plm.spec.tasks.base import Column
from dist_plm.spec.tasks.texts import PAIRS


def names_of(values: Mapping[str, Any]) -> list[str]:
    """Names the columns of a row, and what is in those that hold others as `translation.en`."""
    inner = [f"{name}.{key}" for name, value in values.items() if isinstance(value, Mapping) for key in value]
    return [*values, *inner]


def find_columns(
    wanted: Mapping[str, Column], given: Mapping[str, Any], names: Iterable[str], place: str
) -> dict[str, str]:
    """Maps what a task reads to the columns of a file.

    Args:
        wanted: by the name that `given` may call it by.
        given: what the user says the columns are called.
        names: the columns of the file.
        place: the file.
    Raises:
        DataError: one is missing.
    """
    names = list(names)
    found: dict[str, str] = {}
    if "pair" in wanted and not {"text", "pair"} & given.keys():
        first, second = next(((a, b) for a, b in PAIRS if a in names and b in names), (None, None))
        if first and second:
            found = {"text": first, "pair": second}
    for name, column in wanted.items():
        if name in found:
            continue
        chosen = given.get(name) or next((known for known in _known(name, column, wanted) if known in names), None)
        if chosen in names:
            found[name] = chosen
        elif chosen is not None or not column.optional:
            raise DataError(_missing(name, column, chosen, names, place))
    return found


def _known(name: str, column: Column, wanted: Mapping[str, Column]) -> list[str]:
    return [*column.names, *((PAIRS[0][0],) if name == "text" and "pair" in wanted else ())]


def _missing(name: str, column: Column, chosen: str | None, names: list[str], place: str) -> str:
    has = f"it has {', '.join(map(repr, names)) or 'none'}"
    if chosen is not None:
        return f"data.columns.{name} = {chosen!r}: {place} has no such column{did_you_mean(near(chosen, names))}; {has}"
    known = ", ".join(column.names[:4])
    remedy = other_delimiter(names) or f"name it with data.columns.{name}=NAME"
    return f"{place} has no column for {name} by a usual name ({known}, …), {has}: {remedy}"
