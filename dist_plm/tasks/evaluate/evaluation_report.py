"""Shows what was measured to people."""

from collections.abc import Mapping, Sequence


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


def written_beside(rows: Sequence[tuple[str, str, str]]) -> str:
    """Builds three lines for each row: what was read, what should have been written, and what was."""
    marks = ("<", "=", ">")
    return "\n".join(
        f"  {mark} {' '.join(text.split())}" for row in rows for mark, text in zip(marks, row, strict=True)
    )
