"""Words messages about settings: values, what a field may hold, and what to write instead."""

import dataclasses
import math
import re
import unicodedata
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from dist_plm.config.bounds import Bounds
from dist_plm.config.credentials import mask
from dist_plm.config.environment import base_of
from dist_plm.config.suggest import did_you_mean, near
from dist_plm.config.types import key_of

#: The largest whole number that the arrays and files of a run hold; `rules` refuses more.
MOST: Final = 2**63 - 1
#: Of text that a message repeats.
_SHOWN_CHARACTERS: Final = 200
#: Of lists and mappings.
_SHOWN_LEVELS: Final = 6
_SHOWN_ITEMS: Final = 100


def show(value: Any, depth: int = _SHOWN_LEVELS) -> str:
    """Writes a value as on the command line, text in quotes; nothing is longer or deeper than a message bears."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return _cut(f"[{', '.join(show(v, depth - 1) for v in value[:_SHOWN_ITEMS])}]") if depth else "[…]"
    if isinstance(value, Mapping):
        return _show_mapping(value, depth)
    if isinstance(value, int) and abs(value) > MOST:
        return f"{'-' if value < 0 else ''}{_digits(abs(value))}"
    if isinstance(value, str):
        value = mask(value)
    if isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
        return f"{value[:_SHOWN_CHARACTERS]!r}… ({len(value):,} characters)"
    return repr(value)


def _show_mapping(value: Mapping[Any, Any], depth: int) -> str:
    if not depth:
        return "{…}"
    items = list(value.items())[:_SHOWN_ITEMS]
    return _cut(f"{{{', '.join(f'{show(name, 0)}: {show(inner, depth - 1)}' for name, inner in items)}}}")


def _cut(text: str) -> str:
    return text if len(text) <= 5 * _SHOWN_CHARACTERS else f"{text[: 5 * _SHOWN_CHARACTERS]}…"


def describe(hint: Any) -> str:
    """Says what a field of type `hint` may hold, to follow "must be"."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return ", ".join([describe(args[0]), *(str(a) for a in args[1:] if isinstance(a, Bounds))])
    if origin in (Union, UnionType):
        return " or ".join([describe(a) for a in args if a is not type(None)] + ["null"])
    if origin is Literal:
        return f"{'one of ' if len(args) > 1 else ''}{', '.join(map(str, args))}"
    if origin is tuple:
        if args[-1] is Ellipsis:
            return f"a list in brackets, of {describe(args[0])} each"
        return f"a list of {len(args)} in brackets, of {describe(args[0])} each"
    if origin is dict:
        return "settings"
    if dataclasses.is_dataclass(hint):
        return f"settings ({', '.join(key_of(f.name) for f in dataclasses.fields(hint))})"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[hint]


def _digits(value: int) -> str:
    """Python itself spells no number of more than 4,300 digits."""
    try:
        text = str(value)
    except ValueError:
        return f"a number of some {round(value.bit_length() * math.log10(2)):,} digits"
    return text if len(text) <= 40 else f"{text[:20]}… ({len(text)} digits)"


def remedy(key: str, value: Any, hint: Any) -> str:
    """Says what to write instead, where the value shows what was meant."""
    base = base_of(hint)
    if base is int and isinstance(value, float) and value.is_integer() and abs(value) <= MOST:
        return f"; write {int(value)}"
    if base is int and isinstance(value, str) and re.fullmatch("[+-]?[0-9]{1,19}", value):
        return f"; write {value} without quotes"
    if base in (int, float) and isinstance(value, str) and not value.isascii() and re.fullmatch(r"[+-]?[\d.]+", value):
        return f"; write it with the digits 0 to 9, as in {''.join(map(_ascii_digit, value))}"
    if base is float and isinstance(value, float) and math.isinf(value):
        return ", and finite"
    if base is str and isinstance(value, str):
        return ", in UTF-8 and without the character NUL"
    if base is str and isinstance(value, bool | int | float):
        return f"""; quote it twice on the command line: '{key}="{show(value)}"', once in a file"""
    if base is bool and isinstance(value, str | int):
        return _bool_remedy(value)
    if get_origin(base) is Literal:
        return did_you_mean(near(str(value), get_args(base)))
    if get_origin(base) is tuple and not isinstance(value, list | tuple | Mapping):
        return f"; write [{value}] for a list of one" if get_args(base)[-1] is Ellipsis else ""
    return ""


def _ascii_digit(character: str) -> str:
    return str(unicodedata.digit(character, character))


def _bool_remedy(value: Any) -> str:
    meant = {"1": "true", "yes": "true", "on": "true", "0": "false", "no": "false", "off": "false"}
    word = meant.get(str(value).lower(), "")
    return f"; write {word}" if word else ""
