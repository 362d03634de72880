"""Shows what was measured to people."""

from collections.abc import Mapping, Sequence
from typing import Any

#: Characters of a text by which a row is told.
_SHOWN = 160


def table(facts: Mapping[str, str], results: Mapping[str, float | int]) -> str:
    """Builds the lines of what was asked and what came out."""
    width = max(map(len, [*facts, *results]))
    lines = [f"{name:{width}}  {text}" for name, text in facts.items()]
    lines += [f"{name:{width}}  {_number(value)}" for name, value in results.items()]
    return "\n".join(lines)


def _number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def excerpts(rows: Sequence[tuple[float, str, str]]) -> str:
    """Builds a line for each text: loss a token, name, and how it begins."""
    return "\n".join(f"  {loss:8.4f}  {name}  {' '.join(text.split())}" for loss, name, text in rows)


def _shortened(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def said_of_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Builds three lines for each text that was written: what was read, what should have been written where that is known, and
    what was. What a model says of other rows is one line."""
    lines = []
    for row in rows:
        if "source" in row:
            source = row["source"] if isinstance(row["source"], str) else row["source"][-1]["content"]
            texts = {"<": source, "=": row.get("target"), ">": row["prediction"]}
            lines += [f"  {mark} {' '.join(text.split())}" for mark, text in texts.items() if text is not None]
        else:
            lines.append("  " + "  ".join(f"{name} {_shortened(value)}" for name, value in row.items()))
    return "\n".join(lines)
