"""Where each resolved value comes from, and what it replaced on the way."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dist_plm.config.decode import flatten, show

DEFAULT = "default"
DERIVED = "derived"


@dataclass(frozen=True, slots=True)
class Layer:
    """One source of values, say a file: what it sets, under the keys of the whole configuration."""

    source: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who set a value last, and the (source, value) pairs that it replaced, latest first."""

    source: str
    replaced: tuple[tuple[str, Any], ...] = ()


def trace(layers: Sequence[Layer]) -> dict[str, Origin]:
    """The origin of every key that a layer sets; later layers win over earlier ones."""
    history: dict[str, list[tuple[str, Any]]] = {}
    for layer in layers:
        for key, value in flatten(layer.values).items():
            history.setdefault(key, []).insert(0, (layer.source, value))
    return {key: Origin(found[0][0], tuple(found[1:])) for key, found in history.items()}


def complete(
    composed: Mapping[str, Origin], decoded: Mapping[str, Any], finalised: Mapping[str, Any]
) -> dict[str, Origin]:
    """Origins of all keys of `finalised`: what no layer set is a default, what changed since decoding is derived.

    Args:
        composed: by `trace`.
        decoded: the encoded configuration as it was decoded.
        finalised: the same after the rules filled in what was None.
    """
    before = flatten(decoded)
    origins = {}
    for key, value in flatten(finalised).items():
        origin = composed.get(key, Origin(DEFAULT))
        derived = value != before.get(key)
        origins[key] = Origin(DERIVED) if derived else origin
    return origins


def table(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> str:
    """One line a setting: key, value, where it comes from, and in brackets what it replaced."""
    rows = [(key, show(value), told(origins[key])) for key, value in flatten(values).items()]
    key_width = _width(row[0] for row in rows)
    value_width = _width(row[1] for row in rows)
    return "\n".join(f"{key:{key_width}}  {value:{value_width}}  {told}" for key, value, told in rows)


def told(origin: Origin) -> str:
    """Names who set a value, and in brackets what it replaced."""
    replaced = ", ".join(f"{source}: {show(value)}" for source, value in origin.replaced)
    return f"{origin.source}  (over {replaced})" if replaced else origin.source


def _width(texts: Iterable[str]) -> int:
    return min(max(map(len, texts), default=0), 40)
