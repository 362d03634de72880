"""What `text` of a data source says: one column, or text with columns in braces."""

from string import Formatter

#: A quoted override of the command line keeps a backslash as it is.
_ESCAPES = {"\\n": "\n", "\\t": "\t"}


def parse_template(text: str) -> list[tuple[str, str | None]]:
    """Pairs (literal text, column that follows or None): "{title}: {body}" gives [("", "title"), (": ", "body")].

    Text without braces is the name of a column. `\\n` and `\\t`, written out, mean a newline and a tab.

    Raises:
        ValueError: saying what is wrong with the braces.
    """
    if "{" not in text and "}" not in text:
        return [("", text)]
    for written, meant in _ESCAPES.items():
        text = text.replace(written, meant)
    parts: list[tuple[str, str | None]] = []
    for literal, column, form, conversion in Formatter().parse(text):
        if column is not None and (not column.strip() or form or conversion):
            raise ValueError("braces hold the name of a column and nothing else")
        parts.append((literal, column))
    if all(column is None for _, column in parts):
        raise ValueError("it names no column")
    return parts
