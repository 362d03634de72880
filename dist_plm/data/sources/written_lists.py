"""Lists that stand as text in a table, as CSV has them: pandas writes what Python's `str` or numpy's says of a list."""

import ast
import json
import re
from typing import Any

from dist_plm.core.errors import DataError, reason_of

#: A string that is closed.
_STRING = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
#: And a number or word. Side by side, as numpy writes them, two strings would be one to Python.
_ITEM = rf"(?:{_STRING}|[-+.\w]+)"
_SCALARS = re.compile(rf"\[\s*(?:{_ITEM}\s*(?:,\s*{_ITEM}\s*)*,?\s*)?\]", re.DOTALL)
_STRINGS = re.compile(_STRING, re.DOTALL)
#: How numpy's arrays show where all strings are empty: strings or numbers side by side, or their own name.
_OF_NUMPY = re.compile(r"''\s*''|\barray\(|[\d.]\s+[-\d.]")
_SHOWN = 40


def looks_listed(value: Any) -> bool:
    """Tells whether a value is text in brackets."""
    return isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]")


def looks_quoted(value: Any) -> bool:
    """Tells whether a value is text in brackets, with quotes right inside: no sentence or label begins and ends so."""
    return looks_listed(value) and value.strip()[1:2] in ("'", '"') and value.strip()[-2:-1] in ("'", '"')


def scalars_in(value: Any, where: str) -> Any:
    """Reads the list of texts and numbers that is written in a text; any value but a text in brackets as it is.

    Raises:
        DataError: the text is in brackets, and no such list.
    """
    if not looks_listed(value):
        return value
    found = literal_in(value) if _SCALARS.fullmatch(value.strip()) else None
    if found is None:
        raise no_list(value, where)
    return found


def looks_named(value: Any) -> bool:
    """Tells whether a value is text in braces, as values by name are written."""
    return isinstance(value, str) and value.strip().startswith("{") and value.strip().endswith("}")


def values_in(value: Any, where: str) -> Any:
    """Reads the list or the values by name that are written in a text, one within the other; any value but a text that begins
    as these do as it is.

    Raises:
        DataError: the text is neither JSON nor what Python writes.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        broken = reason_of(error)
    if _OF_NUMPY.search(_STRINGS.sub("''", value)):
        raise DataError(
            f"{where} holds {_shown(value)}, which is of numpy's arrays, and neither JSON nor as Python writes lists: write "
            "JSON lines or Parquet, which keep lists, or mend the row"
        )
    found = literal_in(value)
    if found is None:
        raise DataError(f"{where} holds broken JSON, {broken}: mend the row")
    return found


def literal_in(text: str) -> Any:
    """Reads what a text says as JSON, or as Python writes values; None where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


def no_list(text: str, where: str) -> DataError:
    """Builds the error of a text in brackets that cannot be read."""
    return DataError(
        f"{where} holds {_shown(text)}, which is no list as JSON or Python writes one: write JSON lines or Parquet, which "
        "keep lists, or mend the row"
    )


def _shown(text: str) -> str:
    return repr(text) if len(text) < _SHOWN else f"{text[:_SHOWN]!r}…"
