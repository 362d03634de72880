"""Reads values that come from environment variables, ${oc.env:NAME}, as the settings that they are given to want them."""

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from dist_plm.core.parsing import load_yaml


class EnvironmentText(str):
    """Holds what ${oc.env:NAME} gave: text, which a setting of another type reads as a file would write it."""


def read_as(hint: Any, text: str) -> Any:
    """Reads text of an environment variable as YAML, unless text is what is wanted or what it cannot be read as."""
    base = base_of(hint)
    if base is str or (get_origin(base) is Literal and text in get_args(base)):
        return text
    try:
        return load_yaml(text, "", plain_exponents=True)
    except ValueError:
        return text


def base_of(hint: Any) -> Any:
    """Finds the type below Optional and Annotated."""
    if get_origin(hint) in (Union, UnionType):
        return base_of(next(a for a in get_args(hint) if a is not type(None)))
    return base_of(get_args(hint)[0]) if get_origin(hint) is Annotated else hint
