"""Documents out of numbered lines: whole files, blocks between blank lines, or lines, cut where they are too long."""

import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class LineBlock(NamedTuple):
    """Lines `line` to `last`, joined. `text` is None where they are longer than was allowed to be held."""

    line: int
    last: int
    text: str | None


def assemble(
    lines: Iterable[tuple[int, str]], unit: str, max_chars: int | None, most_chars: int = sys.maxsize
) -> Iterator[LineBlock]:
    """Documents from numbered lines (each with its newline).

    Args:
        unit: "whole": one document of all lines; "block": one a run of lines without blank ones; "line": one a line.
        max_chars: longer documents are cut after the last blank line that fits, else after the last line that fits; a
            line is never cut.
        most_chars: of a document above this much, only the place is kept.
    Pieces and blocks come without blank lines around them, and never without any text.
    """
    if unit == "whole" and max_chars is None:
        yield from _whole(lines, most_chars)
        return
    limit = sys.maxsize if max_chars is None else max_chars
    held: list[str] = []
    size, after = 0, 0  # characters held, number of the last line held
    first_of_huge = None
    for number, line in lines:
        if unit == "line" or (unit == "block" and not line.strip()):
            yield from _joined(held, after, first_of_huge)
            held, size, first_of_huge = [], 0, None
        while held and size + len(line) > limit:
            fits = next((i for i in range(len(held), 0, -1) if not held[i - 1].strip()), len(held))
            yield from _joined(held[:fits], after - len(held) + fits, first_of_huge)
            held, first_of_huge = held[fits:], None
            size = sum(map(len, held))
        held.append(line)
        size += len(line)
        after = number
        if size > most_chars and max_chars is None:
            first_of_huge = first_of_huge or after - len(held) + 1
            held, size = held[-1:], 0
    yield from _joined(held, after, first_of_huge)


def _whole(lines: Iterable[tuple[int, str]], most_chars: int) -> Iterator[LineBlock]:
    first, last, size = None, 0, 0
    held: list[str] = []
    for last, line in lines:
        first = last if first is None else first
        size += len(line)
        if size <= most_chars:
            held.append(line)
        else:
            held = []
    if first is not None:
        yield LineBlock(first, last, "".join(held) if size <= most_chars else None)


def _joined(lines: list[str], last: int, first_of_huge: int | None) -> Iterator[LineBlock]:
    if first_of_huge is not None:
        yield LineBlock(first_of_huge, last, None)
        return
    start, stop = 0, len(lines)
    while start < stop and not lines[start].strip():
        start += 1
    while start < stop and not lines[stop - 1].strip():
        stop -= 1
    if start < stop:
        first = last - len(lines) + 1 + start
        yield LineBlock(first, last - len(lines) + stop, "".join(lines[start:stop]).removesuffix("\n"))
