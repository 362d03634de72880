"""Credentials in settings: taken from the environment at run time, and never written, logged or shown."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

MASK: Final = "***"
_WORD = r"(?:secret|token|passw(?:or)?d|credential|signature|private_?key|api_?key|access_?key|account_?key)"
#: proto://user:PASSWORD@host and proto://TOKEN@host, where these are not references to the environment.
_VARIABLE = r"\$\{oc\.env:\w+\}"
_OF_URL = re.compile(
    rf"(?<=://)((?:{_VARIABLE}|(?!\$\{{)[^/\s'\"@:])*:|(?=[^/\s'\"@:]{{20}}))(?!{_VARIABLE}@)[^/\s'\"@]+@"
)
#: …?secret=TEXT, and NAME_SECRET=TEXT in options and shell, where TEXT is not a variable.
_ASSIGNED = re.compile(rf"((?:\b|_){_WORD}(?:_\w+)?=)(?!['\"]?[$*])(\"[^\"]+\"|'[^']+'|[^\s&;,'\"]+)", re.IGNORECASE)
_SECRET_NAME = re.compile(rf"(?!token_?i[sz]){_WORD}|auth(?!ors?(?:_|$))|(?:^|_)(?:key|pass|pat)(?:_|$)", re.IGNORECASE)
_COUNTED = re.compile(r"tokens(?:_|$)", re.IGNORECASE)
#: ${oc.env:NAME} and ${oc.env:NAME,default}, as Hydra has it.
_REFERENCE = re.compile(r"\$\{oc\.env:\s*([A-Za-z_][A-Za-z0-9_]*)\s*(?:,([^}]*))?\}")
#: Where URLs hold credentials, however short these are: before the @, and behind a name of the query.
_USER = re.compile(r"(?<=://)[^/\s'\"@]+@")
_QUERY = re.compile(r"[?&][\w.-]+=([^&\s'\"]+)")
#: Of characters: shorter text stands within other words by chance, and is masked where it is a word of its own; what is shorter
#: still is a word of any text, and known by its place alone.
_LONG, _WORD_LONG = 8, 4
#: What this process has read that holds credentials, and what stands for it in texts of libraries.
_known: dict[str, str] = {}


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
    """`text` without passwords in URLs, without values that are assigned to names of credentials, and without those that were
    read from the environment."""
    if isinstance(text, FromEnvironment):
        return _mask_by_form(text.written)
    for secret, written in _known.items():
        if secret in text:
            text = text.replace(secret, written) if len(secret) >= _LONG else _mask_word(text, secret, written)
    return _mask_by_form(text)


def _mask_word(text: str, secret: str, written: str) -> str:
    before, after = (r"(?<!\w)" if secret[0].isalnum() else ""), (r"(?!\w)" if secret[-1].isalnum() else "")
    return re.sub(rf"(?<!\$\{{oc\.env:){before}{re.escape(secret)}{after}", lambda _: written, text)


def _mask_by_form(text: str) -> str:
    if "=" not in text and "://" not in text:
        return text
    return _ASSIGNED.sub(rf"\g<1>{MASK}", _OF_URL.sub(rf"\g<1>{MASK}@", text))


def holds_credential(text: str) -> bool:
    """Whether a credential stands in `text` in the open, be it beside references to the environment."""
    if isinstance(text, FromEnvironment):
        text = _REFERENCE.sub("", text.written)
    return _mask_by_form(text) != text


def mark(values: Any, secrets: Mapping[str, str], raw: Any = None) -> Any:
    """`values` at any depth, text in which one of `secrets` stands being `FromEnvironment`.

    Args:
        secrets: values of the environment, by variable.
        raw: the same values before references were followed: text without any holds a short secret by chance.
    """
    if isinstance(values, Mapping):
        parts = raw if isinstance(raw, Mapping) else dict.fromkeys(values, raw)
        return {name: mark(inner, secrets, parts.get(name)) for name, inner in values.items()}
    if isinstance(values, list):
        items = raw if isinstance(raw, list) else [raw] * len(values)
        return [mark(inner, secrets, item) for inner, item in zip(values, items, strict=True)]
    if not isinstance(values, str):
        return values
    refers = isinstance(raw, str) and "${" in raw
    written = values
    for name, secret in secrets.items():
        if refers or len(secret) >= _LONG:
            written = written.replace(secret, f"${{oc.env:{name}}}")
    return values if written == values else _from_environment(values, written, secrets)


def _from_environment(text: str, written: str, secrets: Mapping[str, str]) -> FromEnvironment:
    """Marks `text`, and has `mask` know it and the secrets in it from now on."""
    stands_for = {text: written}
    for name, secret in secrets.items():
        if secret in text:  # libraries quote and unquote what stands in URLs
            stands_for |= dict.fromkeys((secret, quote(secret, safe=""), unquote(secret)), f"${{oc.env:{name}}}")
    _known.update((secret, shown) for secret, shown in stands_for.items() if len(secret) >= _WORD_LONG)
    return FromEnvironment(text, written)


def secrets_among(texts: Iterable[str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables to which `texts` refer that are credentials by their names, or by where their values stand."""
    found: dict[str, str] = {}
    for text in texts:
        names = [name for name, _ in _REFERENCE.findall(text) if environment.get(name)]
        somewhere = holds_credential(_REFERENCE.sub(lambda match: environment.get(match[1]) or match[2] or "", text))
        for name in names:
            in_place = name in _names_in_place(text) or _USER.search(environment[name])
            counts = environment[name].isdecimal() and _COUNTED.search(name)  # MAX_TOKENS=512
            if somewhere or in_place or (_SECRET_NAME.search(name) and not counts):
                found[name] = environment[name]
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _names_in_place(text: str) -> set[str]:
    """Variables to which a URL refers where credentials stand."""
    names = [name for name, _ in _REFERENCE.findall(text)]
    numbers = iter(range(len(names)))
    url = _REFERENCE.sub(lambda _: f"\0{next(numbers)}\0", text)  # a reference holds signs that mean something in a URL
    places = [found[0] for found in (*_USER.finditer(url), *_QUERY.finditer(url))]
    return {names[int(number)] for place in places for number in re.findall("\0([0-9]+)\0", place)}


def followed(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Follows again the references in one setting of another run, those to variables that are not set left as they are."""
    unset = unset_in(text, environment)
    return text if unset else read_back(text, environment)


def unset_in(text: str, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Names the variables that text refers to and that are not set here."""
    return [name for name, _ in _REFERENCE.findall(text) if name not in environment]


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
        secrets = {name: environment[name] for name, _ in _REFERENCE.findall(value)}
        return _from_environment(_REFERENCE.sub(lambda found: environment[found[1]], value), value, secrets)
    return value
