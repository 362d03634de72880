"""Credentials in settings: taken from the environment at run time, and never written, logged or shown."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

MASK: Final = "***"
_WORD = r"(?:secret|token|passw(?:or)?d|credential|signature|private_?key|api_?key|access_?key|account_?key)"
#: proto://user:PASSWORD@host and proto://TOKEN@host.
_OF_URL = re.compile(r"(?<=://)([^/\s'\"@:]*:|(?=[^/\s'\"@:]{20}))[^/\s'\"@]+@")
#: …?secret=TEXT, and NAME_SECRET=TEXT in options and shell, where TEXT is not a variable.
_ASSIGNED = re.compile(rf"((?:\b|_){_WORD}(?:_\w+)?=)(?!['\"]?[$*])(\"[^\"]+\"|'[^']+'|[^\s&;,'\"]+)", re.IGNORECASE)
_SECRET_NAME = re.compile(rf"{_WORD}|auth|(?:^|_)(?:key|pass|pat)(?:_|$)", re.IGNORECASE)
#: ${oc.env:NAME} and ${oc.env:NAME,default}, as Hydra has it.
_REFERENCE = re.compile(r"\$\{oc\.env:\s*([A-Za-z_][A-Za-z0-9_]*)\s*(?:,([^}]*))?\}")


class FromEnvironment(str):
    """Text that holds a credential of the environment.

    Attributes:
        written: what stands for it wherever it is written or shown: the text with ${oc.env:NAME}.
    """

    written: str

    def __new__(cls, value: str, written: str = MASK) -> "FromEnvironment":
        text = super().__new__(cls, value)
        text.written = written
        return text

    def __repr__(self) -> str:
        return repr(self.written)


def mask(text: str) -> str:
    """`text` without passwords in URLs, and without values that are assigned to names of credentials."""
    if isinstance(text, FromEnvironment):
        return text.written
    if "=" not in text and "://" not in text:
        return text
    return _ASSIGNED.sub(rf"\g<1>{MASK}", _OF_URL.sub(rf"\g<1>{MASK}@", text))


def holds_credential(text: str) -> bool:
    return mask(str(text)) != str(text)


def mark(values: Any, secrets: Mapping[str, str]) -> Any:
    """`values` at any depth, text in which one of `secrets` stands being `FromEnvironment`.

    Args:
        secrets: values of the environment, by variable.
    """
    if isinstance(values, Mapping):
        return {name: mark(inner, secrets) for name, inner in values.items()}
    if isinstance(values, list):
        return [mark(inner, secrets) for inner in values]
    if not isinstance(values, str):
        return values
    written = values
    for name, secret in secrets.items():
        written = written.replace(secret, f"${{oc.env:{name}}}")
    return values if written == values else FromEnvironment(values, written)


def secrets_among(texts: Iterable[str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables to which `texts` refer that are credentials by their names, or by where their values stand."""
    found: dict[str, str] = {}
    for text in texts:
        names = [name for name, _ in _REFERENCE.findall(text) if environment.get(name)]
        in_place = holds_credential(_REFERENCE.sub(lambda match: environment.get(match[1]) or match[2] or "", text))
        found |= {name: environment[name] for name in names if in_place or _SECRET_NAME.search(name)}
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def read_back(value: Any, environment: Mapping[str, str] = os.environ) -> Any:
    """Follows again the references to the environment in what was written, at any depth.

    Raises:
        KeyError: a variable is not set; its argument is the variable's name.
    """
    if isinstance(value, Mapping):
        return {name: read_back(inner, environment) for name, inner in value.items()}
    if isinstance(value, list):
        return [read_back(inner, environment) for inner in value]
    if isinstance(value, str) and _REFERENCE.search(value):
        return FromEnvironment(_REFERENCE.sub(lambda found: environment[found[1]], value), value)
    return value
