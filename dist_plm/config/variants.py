"""Sections whose fields depend on the named thing they choose: a base class with what all have, and a subclass a name."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from dist_plm.config.extending.bodies import place_of
from dist_plm.config.types import key_of

T = TypeVar("T")


class Variants(Mapping[str, type[T]], Generic[T]):
    """Maps the names of things of one kind to their section classes, which `decode` chooses from by the field `tag`.

    Args:
        base: the class that the schema names; its fields are those that every variant has.
        tag: the field whose value is the name.
        members: the subclasses of `base`, by name.
        owed: attributes and methods that each member has to give, as `base` has none, or one that only declares it.
    """

    def __init__(self, base: type[T], tag: str, members: Mapping[str, type[T]], owed: Sequence[str] = ()) -> None:
        assert all(issubclass(member, base) for member in members.values())
        self.tag, self._members, self._base, self._owed = tag, dict(members), base, owed
        base.__variants__ = self  # pyright: ignore[reportAttributeAccessIssue]

    def __getitem__(self, name: str) -> type[T]:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def problem(self, name: str) -> str | None:
        """Says what is wrong with the class that is registered as `name`, so that nothing can be made of it."""
        member = self._members[name]
        place = f"{member.__name__} of {place_of(member.__module__)}"
        if "__dataclass_fields__" not in member.__dict__:
            return f"{place} is no dataclass of its own: write @dataclass(frozen=True, kw_only=True) above it"
        (called,) = (field.default for field in dataclasses.fields(member) if field.name == self.tag)  # pyright: ignore[reportArgumentType]
        if called != name or name not in get_args(_types_of(member)[self.tag]):
            return f'{place} is called otherwise: write {self.tag}: Literal["{name}"] = "{name}" in it'
        missing = [one for one in self._owed if getattr(member, one, None) is getattr(self._base, one, None)]
        if missing:
            return f"{place} does not give {' and '.join(missing)}, which nothing can do without: see docs/extend.md"
        return None

    def with_field(self, key: str) -> dict[str, "dataclasses.Field[Any]"]:
        """Returns the variants that have a setting called `key`, by name, with their field for it."""
        return {name: f for name, cls in self.items() for f in dataclasses.fields(cls) if key_of(f.name) == key}  # pyright: ignore[reportArgumentType]


def variants_of(cls: type) -> Variants[Any] | None:
    """Returns the variants of a base class; None for any other class, a variant included."""
    return cls.__dict__.get("__variants__")


@functools.cache
def _types_of(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def hints_of(cls: type) -> dict[str, Any]:
    """Returns the type of every field that an instance of `cls` may have, those of all its variants together."""
    variants = variants_of(cls)
    own = {f.name for f in dataclasses.fields(cls)}
    hints = {name: hint for name, hint in _types_of(cls).items() if name in own}
    for variant in variants.values() if variants else ():
        hints |= {name: hint for name, hint in _types_of(variant).items() if name not in hints}
    names = {f.name for c in (cls, *(variants.values() if variants else ())) for f in dataclasses.fields(c)}
    return {name: hint for name, hint in hints.items() if name in names}
