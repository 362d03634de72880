"""Shows what was measured: a table for people, a file of JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_plm.core.errors import DataError
from dist_plm.core.files import atomic_writer


def check_out(out: str | None) -> None:
    """Sees to it, before anything is measured, that a file can be written.

    Raises:
        DataError: its folder is not there, or it is a folder itself.
    """
    if out is None:
        return
    path = Path(out)
    if path.is_dir():
        raise DataError(f"out = {out} is a directory: name a file in it")
    if not path.parent.is_dir():
        raise DataError(f"out = {out}: there is no directory {path.parent}: make it, or name another file")


def table(facts: Mapping[str, str], results: Mapping[str, float | int]) -> str:
    """Builds the lines of what was asked and what came out."""
    width = max(map(len, [*facts, *results]))
    lines = [f"{name:{width}}  {text}" for name, text in facts.items()]
    lines += [f"{name:{width}}  {_number(value)}" for name, value in results.items()]
    return "\n".join(lines)


def _number(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def write_json(out: str, content: Mapping[str, Any]) -> None:
    """Writes results, atomically.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        with atomic_writer(Path(out)) as file:
            file.write(json.dumps(content, indent=2, ensure_ascii=False).encode(errors="replace") + b"\n")
    except OSError as error:
        raise DataError(f"out = {out} cannot be written: {error.strerror}") from None


def excerpts(rows: Sequence[tuple[float, str, str]]) -> str:
    """Builds a line for each text: loss a token, name, and how it begins."""
    return "\n".join(f"  {loss:8.4f}  {name}  {' '.join(text.split())}" for loss, name, text in rows)
