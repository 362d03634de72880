"""YAML and JSON of files that anybody may have written: bounded, and refused where two readers would read two things."""

import json
import math
import os
import re
from collections.abc import Sequence
from typing import Any, Final, TypeGuard

import yaml

from dist_plm.core.errors import reason_of
from dist_plm.core.regular import open_regular

#: Of a file of settings.
MAX_BYTES: Final = 16 * 2**20
#: Levels of nesting; a configuration has five.
MAX_DEPTH: Final = 50
#: Of a whole number; Python reads no more.
MAX_DIGITS: Final = 4_300
#: Of text that a message repeats.
_SHOWN_CHARACTERS: Final = 100
#: Values of a file, counted as often as aliases repeat them.
MAX_VALUES: Final = 200_000
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_SURROGATE = re.compile("[\ud800-\udfff]")
#: Numbers as YAML 1.2 has them, where 1.1 wants a dot in the mantissa of 1e-4.
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file of settings.

    Raises:
        OSError: it is missing, a directory, or a pipe, which would be waited for.
        ValueError: its name cannot be one, or it is not UTF-8, or longer than any settings are.
    """
    with open_regular(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"settings take {MAX_BYTES:,} bytes at most, and it holds more")
    return content.decode()


def load_yaml(text: str, name: str, *, plain_exponents: bool = False) -> Any:
    """The one document of a YAML file.

    Args:
        name: of the file, for messages.
        plain_exponents: 1e-4 is a number, not text, as Hydra has it.
    Raises:
        ValueError: it is no YAML, nests or repeats itself without bound, gives a key twice, or holds a number that YAML 1.1 and
            1.2 read differently (010, 1:30, 1_000).
    """
    try:
        return _load(text, name, _ExponentLoader if plain_exponents else _Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("<unicode string>", name)) from error
    except RecursionError as error:
        raise ValueError(f'"{name}" nests more than {MAX_DEPTH} levels deep') from error


def load_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, or nests too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(reason_of(error)) from error
    except ValueError as error:
        raise error if isinstance(error, json.JSONDecodeError) else ValueError(reason_of(error)) from None


class _Loader(yaml.SafeLoader):
    """Without dates, which no setting is."""


class _ExponentLoader(_Loader):
    pass


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if not tag.endswith(":timestamp")]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_ExponentLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _load(text: str, name: str, kind: type[_Loader]) -> Any:
    loader = kind(text)
    loader.name = name
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _Survey(name).size(node, 1)
        return loader.construct_document(node)
    finally:
        loader.dispose()


class _Survey:
    """Looks at a document's nodes before values are made of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sizes: dict[int, int] = {}
        self.open: set[int] = set()

    def size(self, node: yaml.Node, depth: int) -> int:
        """Values of `node`, those of aliases included. Raises ValueError for what `load_yaml` refuses."""
        if id(node) in self.open:
            raise self._refusal(node, "a value contains itself")
        if id(node) in self.sizes:
            return self.sizes[id(node)]
        if depth > MAX_DEPTH:
            raise self._refusal(node, f"values nest more than {MAX_DEPTH} levels deep")
        self.open.add(id(node))
        total = 1 + sum(self.size(part, depth + 1) for part in self._parts(node))
        if total > MAX_VALUES:
            raise self._refusal(node, f"aliases repeat themselves to more than {MAX_VALUES:,} values")
        self.open.remove(id(node))
        self.sizes[id(node)] = total
        return total

    def _parts(self, node: yaml.Node) -> list[yaml.Node]:
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            return [part for pair in node.value for part in pair]
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node)
            return []
        return list(node.value)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._refusal(key, "a key is a list or a mapping: keys are names")
            if (key.tag, key.value) in seen:
                raise self._refusal(key, f"duplicate key {_cut(key.value)}: keep one of them")
            seen.add((key.tag, key.value))

    def _check_scalar(self, node: yaml.ScalarNode) -> None:
        if _SURROGATE.search(node.value):
            raise self._refusal(node, "text holds half a surrogate pair, which no encoding has")
        kind = node.tag.rpartition(":")[2]
        if kind == "int" and len(node.value) > MAX_DIGITS:
            raise self._refusal(
                node, f"{_cut(node.value)} is too large: no number of more than {MAX_DIGITS:,} digits is read"
            )
        two_ways = (kind == "int" and not _DECIMAL.fullmatch(node.value)) or (
            kind == "float" and re.search(r"[:_]", node.value)
        )
        if two_ways:
            raise self._refusal(
                node,
                f"{_cut(node.value)} is not the same number to every reader of YAML: write it in plain digits, or in quotes if "
                "it is text",
            )

    def _refusal(self, node: yaml.Node, problem: str) -> ValueError:
        return ValueError(f'{problem}; in "{self.name}", line {node.start_mark.line + 1}')


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}… ({len(text):,} characters)"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of JSON is a number that a float can hold: true and 10**400 are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_infinite_or_nan(value: Any) -> bool:
    """Tells whether a value is what JSON writes as NaN or Infinity; pandas has NaN where nothing is."""
    return isinstance(value, float) and not math.isfinite(value)


def whole_number(text: str | None) -> int | None:
    """A number in the digits 0 to 9, as a variable of the environment or an option gives it; None for any other text."""
    return int(text) if text is not None and re.fullmatch("[0-9]{1,18}", text.strip(" \n")) else None


def other_delimiter(columns: Sequence[str]) -> str | None:
    """Says what a table needs whose only column looks like several, parted by a sign that its kind of file does not have; None
    where it does not."""
    sign = next((sign for sign in ";\t|," if len(columns) == 1 and sign in columns[0]), None)
    return sign and f"its columns are parted by {sign!r}: a .csv has commas there, a .tsv tabs"
