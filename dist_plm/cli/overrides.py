"""One override of the command line, in Hydra's grammar."""

import itertools
import re
import shlex
import unicodedata
from collections.abc import Collection
from typing import Any

from hydra.core.override_parser import overrides_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.overrides_visitor import HydraOverrideVisitor
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException

from dist_plm.core.errors import ConfigError
from dist_plm.core.installed import hydra_quoted
from dist_plm.core.parsing import MAX_DEPTH


def parse(text: str) -> Override:
    """The override that `text` is.

    Raises:
        ConfigError: it is none.
    """
    if _depth(text) > MAX_DEPTH:
        raise ConfigError([f"{_start(text)} nests too deeply: settings have some five levels"])
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
    except (OverrideParseException, HydraException, ValueError) as error:
        raise ConfigError([_problem(text, error)]) from error
    if not override.key_or_group:
        raise ConfigError([_problem(text, None)])
    return override


def as_plain(text: str, plain: Collection[str]) -> str:
    """Quotes the value of an override whose key is in `plain`, so that signs and numbers in it are text.

    A value in quotes of its own, and null, stay what they are to Hydra, and so does ${…}."""
    key, equals, value = text.partition("=")
    if key not in plain or not equals or value == "null" or re.fullmatch(r"(['\"]).*\1", value, re.DOTALL):
        return text
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"


def _depth(text: str) -> int:
    """Counts how deep brackets nest, those in quotes too."""
    return max(itertools.accumulate((sign in "[{(") - (sign in "]})") for sign in text), default=0)


class _Visitor(HydraOverrideVisitor):
    """Refuses a key given twice, of which Hydra keeps the last."""

    def visitDictContainer(self, ctx: Any) -> dict[str, Any]:  # noqa: N802
        pairs = [self.visitDictKeyValuePair(ctx.getChild(i)) for i in range(1, ctx.getChildCount() - 1, 2)]
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise _DuplicateKeyError(key)
        return dict(pairs)


class _DuplicateKeyError(HydraException):
    pass


# Hydra's parser makes its visitor itself, and names no other way to have another one.
overrides_parser.HydraOverrideVisitor = _Visitor  # pyright: ignore[reportPrivateImportUsage]


def _problem(text: str, error: Exception | None) -> str:
    key, equals, value = text.partition("=")
    duplicate = _cause(error, _DuplicateKeyError)
    if duplicate is not None:
        return f"{_start(text)} gives {duplicate} twice: keep one of them"
    if not equals:
        return f"{_start(text)} is not of the form key=value"
    if foreign := re.search(r"[^\W\d_]", re.sub("[A-Za-z]", "", key)):
        letter = foreign[0]
        return (
            f"{_start(key)} holds {letter}, {unicodedata.name(letter, 'a letter').lower()}: names of settings are written in "
            "the letters a to z"
        )
    if not re.fullmatch(r"(\+\+?|~)?[A-Za-z0-9_][A-Za-z0-9_-]*([./@:][A-Za-z0-9_][A-Za-z0-9_-]*)*", key):
        return f"{_start(text)} begins with no name of a setting: names look like optim.lr"
    if value.startswith("~"):
        return f"{_start(text)} begins with ~, which only a shell replaces, and not here: write {key}=$HOME{value[1:]}"
    if "digits" in str(error):
        return f"{_start(text)} is too large: no number of more than 4,300 digits is read"
    told = f"{_start(text)} cannot be read: text with blanks or signs needs quotes of its own"
    proposed = _quoted(key, value) if _start(text) == text else None
    if proposed is not None:
        return f"{told}, as in {shlex.quote(f'{key}={proposed}')}"
    return f"""{told}, each of a list or a mapping its own, as in '["--a=b", c]' and '{{a: "b=c", d: 1}}'"""


def _cause(error: BaseException | None, kind: type[Exception]) -> BaseException | None:
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _start(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text):,} characters)"


def _quoted(key: str, value: str) -> str | None:
    """Puts the text in `value` between quotes, of a flat list each text that needs them, so that Hydra can read `key=value`;
    None where that is not enough."""
    texts = value[1:-1] if value.startswith("[") and value.endswith("]") else None
    if texts is None:
        proposed = None if value.startswith(("[", "{")) else hydra_quoted(value, '"')
    elif re.search(r"[\[\]{}\"'\\\\]", texts):  # what belongs together is for a person to say
        proposed = None
    else:
        items = [text.strip() for text in texts.split(",")]
        proposed = f"[{','.join(text if _is_read(f'x=[{text}]') else hydra_quoted(text, chr(34)) for text in items)}]"
    return proposed if proposed is not None and _is_read(f"{key}={proposed}") else None


def _is_read(override: str) -> bool:
    try:
        return len(OverridesParser.create().parse_overrides([override])) == 1
    except (HydraException, ValueError):
        return False
