"""Reads what `text` of a data source says: one column, or text with columns in braces."""

from string import Formatter
from typing import NamedTuple

#: A quoted override of the command line keeps a backslash as it is.
_ESCAPES = {"\\n": "\n", "\\t": "\t"}


class TemplatePart(NamedTuple):
    """Literal text, the column that follows it or None, and whether that may be empty."""

    literal: str
    column: str | None
    may_be_empty: bool = False


def parse_template(text: str) -> list[TemplatePart]:
    """The parts of a template: "{title}: {body}" has ("", "title") and (": ", "body").

    Text without braces is the name of a column. A question mark, as in "{title?}", lets a column be empty or missing. `\\n`
    and `\\t`, written out, mean a newline and a tab.

    Raises:
        ValueError: saying what is wrong with the braces.
    """
    if "{" not in text and "}" not in text:
        return [TemplatePart("", text)]
    for written, meant in _ESCAPES.items():
        text = text.replace(written, meant)
    parts: list[TemplatePart] = []
    for literal, column, form, conversion in Formatter().parse(text):
        name = column and column.removesuffix("?")
        if name is not None and (not name.strip() or form or conversion):
            raise ValueError("braces hold the name of a column and nothing else")
        parts.append(TemplatePart(literal, name, may_be_empty=name != column))
    if all(part.column is None for part in parts):
        raise ValueError("it names no column")
    return parts
