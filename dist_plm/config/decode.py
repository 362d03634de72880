"""A plain mapping turned into frozen dataclasses, strictly: what the schema does not know or does not allow is refused.

All problems are collected, so that one look at the message mends the whole configuration.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

from dist_plm.config.bounds import Bounds
from dist_plm.config.credentials import FromEnvironment, holds_credential
from dist_plm.config.environment import EnvironmentText, base_of, read_as
from dist_plm.config.messages import describe, remedy, show
from dist_plm.config.suggest import did_you_mean, other_way, setting_names, suggest
from dist_plm.config.types import key_of
from dist_plm.config.variants import Variants, hints_of, variants_of
from dist_plm.core.errors import ConfigError

T = TypeVar("T")

#: What OmegaConf writes for a value that must be given.
MISSING: Final = "???"
#: Stands for a value whose problem is already noted.
_REFUSED: Final = object()
#: YAML 1.1 reads 1e-4 as text, since it wants a dot in the mantissa.
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
#: What no file's name and no UTF-8 text holds.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def decode(cls: type[T], mapping: Mapping[str, Any], *, of_before: bool = False) -> T:
    """An instance of the configuration class `cls` from plain dicts, lists and scalars.

    Whole numbers serve as floats, and so does text that reads as a number; nothing else is converted. Of a section that
    has variants, the one that its tag names is taken.

    Args:
        of_before: the mapping may have been written when a section held the settings of all its variants: those of others
            are passed over where they stand at their defaults.
    Raises:
        ConfigError: with every problem found: unknown keys at any depth (with the nearest valid name), missing
            settings, values of the wrong type, out of range, or not among the choices.
    """
    decoder = _Decoder(cls, of_before)
    instance = decoder.dataclass(cls, mapping, "")
    if decoder.problems:
        raise ConfigError(decoder.problems)
    return instance


def encode(instance: Any) -> dict[str, Any]:
    """The plain mapping that `decode` turns back into an equal instance: dicts, lists and scalars, None included."""
    return {key_of(f.name): _plain(getattr(instance, f.name)) for f in dataclasses.fields(instance)}


def defaults_of(cls: type) -> dict[str, Any]:
    """The plain mapping of the settings of a section class that need not be given."""
    return {key_of(f.name): _plain(_default(f)) for f in dataclasses.fields(cls) if _has_default(f)}


def flatten(mapping: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of nested mappings; lists are values, and an empty mapping has no keys."""
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _as_text(name: Any) -> Any:
    """The text that a key was written as, where YAML reads another kind of value."""
    if isinstance(name, bool):
        return str(name).lower()
    return str(name) if isinstance(name, int | float) else name


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return encode(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value.written if isinstance(value, FromEnvironment) else value


class _Decoder:
    """Walks schema and mapping together, noting each problem and going on."""

    def __init__(self, root: type, of_before: bool) -> None:
        self.root, self.of_before = root, of_before
        self.problems: list[str] = []

    @functools.cached_property
    def valid(self) -> list[str]:
        """Every key that there is. Only a key that there is not asks for them, as they take longer than all else."""
        return setting_names(self.root)

    def dataclass(self, cls: type, value: Any, key: str) -> Any:
        if not isinstance(value, Mapping):
            return self._refuse(key, value, cls)
        prefix = f"{key}." if key else ""
        variants = variants_of(cls)
        if variants is not None:
            chosen = self._variant(variants, value, prefix)
            if chosen is None:
                return _REFUSED
            cls = chosen
        hints = {key_of(name): hint for name, hint in hints_of(cls).items()}
        for name in value:
            if name not in hints:
                if variants is not None and self._belongs_to_others(variants, value, name, prefix):
                    continue
                for unknown, given in (flatten({name: value[name]}) or {str(name): value[name]}).items():
                    self._unknown(f"{prefix}{unknown}", given, key, list(hints))
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            name = key_of(field.name)
            given = value.get(name, MISSING)
            if isinstance(given, str) and given == MISSING:
                if name in value or not _has_default(field):
                    self._missing(f"{prefix}{name}", hints[name])
                    fields[field.name] = _REFUSED
                continue
            fields[field.name] = self.value(hints[name], given, f"{prefix}{name}")
        if any(v is _REFUSED for v in fields.values()):
            return _REFUSED
        return cls(**fields)

    def _variant(self, variants: Variants[Any], value: Mapping[Any, Any], prefix: str) -> type | None:
        """The class that the tag of a section names, or None once the problem is noted."""
        name = value.get(variants.tag, MISSING)
        if isinstance(name, str) and name in variants:
            if problem := variants.problem(name):
                self.problems.append(f"{prefix}{variants.tag} = {show(name)} is registered, but {problem}")
                return None
            return variants[name]
        choices = Literal[tuple(variants)]  # pyright: ignore[reportInvalidTypeForm]
        if name == MISSING:
            self._missing(f"{prefix}{variants.tag}", choices)
        else:
            self._refuse(f"{prefix}{variants.tag}", name, choices)
        return None

    def _belongs_to_others(self, variants: Variants[Any], value: Mapping[Any, Any], name: Any, prefix: str) -> bool:
        """Notes a setting that other variants than the chosen one have; False where none has it."""
        owners = variants.with_field(name)
        if not owners:
            return False
        if self.of_before and any(_plain(_default(f)) == value[name] for f in owners.values()):
            return True
        self.problems.append(
            f"{prefix}{name} = {show(value[name])} is not a setting of {prefix}{variants.tag} = "
            f"{show(value[variants.tag])}, but of {', '.join(owners)}: leave it out, or choose one of these"
        )
        return True

    def value(self, hint: Any, value: Any, key: str, whole: Any = None) -> Any:
        """`value` as a `hint`; `whole` is the type that a refusal describes, where `hint` is a part of it."""
        whole = whole or hint
        if isinstance(value, EnvironmentText):
            value = read_as(hint, str(value))
        origin, args = get_origin(hint), get_args(hint)
        if origin is Annotated:
            plain = self._scalar(args[0], value)
            admitted = plain is not _REFUSED and all(a.admits(plain) for a in args[1:] if isinstance(a, Bounds))
            return plain if admitted else self._refuse(key, value, whole)
        if origin in (Union, UnionType):
            if value is None:
                return None
            (inner,) = [a for a in args if a is not type(None)]
            return self.value(inner, value, key, whole)
        if origin is Literal:
            known = any(value == a and type(value) is type(a) for a in args)
            return value if known else self._refuse(key, value, whole)
        if origin is tuple:
            return self._tuple(hint, args, value, key)
        if origin is dict:  # keys of another program, which alone knows them
            if not isinstance(value, Mapping):
                return self._refuse(key, value, whole)
            return {_as_text(name) if args[0] is str else name: inner for name, inner in value.items()}
        if dataclasses.is_dataclass(hint):
            return self.dataclass(hint, value, key)  # pyright: ignore[reportArgumentType]
        plain = self._scalar(hint, value)
        if isinstance(plain, str) and not self.of_before and holds_credential(plain):
            return self._refuse_credential(key, plain)
        return self._refuse(key, value, whole) if plain is _REFUSED else plain

    def _tuple(self, hint: Any, args: tuple[Any, ...], value: Any, key: str) -> Any:
        any_length = args[-1] is Ellipsis
        if any_length and base_of(args[0]) is str and isinstance(value, str):
            value = [value]  # one name need not be a list
        if not isinstance(value, list | tuple) or (not any_length and len(value) != len(args)):
            return self._refuse(key, value, hint)
        hints = [args[0]] * len(value) if any_length else list(args)
        items = [self.value(h, v, f"{key}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True))]
        return _REFUSED if any(i is _REFUSED for i in items) else tuple(items)

    def _scalar(self, hint: Any, value: Any) -> Any:
        """`value` as a `hint`, or _REFUSED. A bool is an int in Python, and never one here."""
        if hint is float:
            if isinstance(value, str) and _NUMBER.fullmatch(value):
                value = float(value)
            if isinstance(value, int | float) and not isinstance(value, bool):
                try:
                    number = float(value)
                except OverflowError:
                    return _REFUSED
                return number if math.isfinite(number) else _REFUSED
            return _REFUSED
        if hint is int and isinstance(value, bool):
            return _REFUSED
        if hint is str and isinstance(value, str) and _NO_TEXT.search(value):
            return _REFUSED
        return value if isinstance(value, hint) else _REFUSED

    def _refuse(self, key: str, value: Any, hint: Any) -> Any:
        shown = f"{key} = {show(value)}" if key else f"the configuration {show(value)}"
        self.problems.append(f"{shown} is not allowed: it must be {describe(hint)}{remedy(key, value, hint)}")
        return _REFUSED

    def _refuse_credential(self, key: str, text: str) -> Any:
        self.problems.append(
            f"{key} = {show(text)} holds a credential, which would stand in run.yaml and logs: put it into a variable of the "
            "environment and write '${oc.env:NAME}' in its place"
        )
        return _REFUSED

    def _missing(self, key: str, hint: Any) -> None:
        if dataclasses.is_dataclass(hint):
            self.problems.append(f"{key} is missing: choose one of its files with {key}=NAME")
        else:
            self.problems.append(f"{key} is missing: give {key}=…, which must be {describe(hint)}")

    def _unknown(self, key: str, value: Any, group: str, siblings: list[str]) -> None:
        if key in self.valid:  # a dotted name where a file must nest
            outer, _, name = key.rpartition(".")
            hint = f" in this form; in a file write {name} below {outer}: on a line of its own"
        elif key.endswith(".True") and "on" in siblings:
            hint = '; YAML reads on as true: write "on" with quotes'
        else:
            index = re.search(r"\[[0-9]+\]", key)
            looked_up = key.replace(index[0], "[0]") if index else key
            if way := other_way(looked_up, self.valid):
                hint = f"; {way}"
            else:
                found = suggest(looked_up, self.valid)
                hint = did_you_mean([name.replace("[0]", index[0] if index else "[0]") for name in found])
        if not hint:
            hint = f"; {group or 'the configuration'} has: {', '.join(siblings)}"
        self.problems.append(f"{key} = {show(value)} is not a setting{hint}")
