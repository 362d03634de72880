"""Fills rows of a fixed capacity with pieces of text: a piece is (position of its first token, number of tokens).

Each packer takes as many rows as it needs; `exactly` then makes them a given number, so that rows of a block can be
counted without packing it. No token is lost or repeated anywhere.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from itertools import pairwise

TokenRange = tuple[int, int]
PackedRow = list[TokenRange]


def best_fit(pieces: Sequence[TokenRange], capacity: int, frame: int = 0) -> list[PackedRow]:
    """Best-fit decreasing (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv 2404.10830, section 3):
    pieces longer than a row are cut into full rows and a rest, and then each piece, the longest first, goes into the
    row whose remaining space it fills best. Within a row pieces stand in the order of the text.

    Args:
        capacity: tokens of the longest piece.
        frame: tokens by which each piece takes more room than it has tokens; a row has room for `capacity` + `frame`.
    """
    rows: list[PackedRow] = []
    rests: list[TokenRange] = []
    for start, length in pieces:
        whole = length - length % capacity
        rows += [[(at, capacity)] for at in range(start, start + whole, capacity)]
        if length > whole:
            rests.append((start + whole, length - whole))
    spaces: list[tuple[int, int]] = []  # (space that remains, row), ascending
    for piece in sorted(rests, key=lambda piece: -piece[1]):
        needed = piece[1] + frame
        at = bisect_left(spaces, (needed, -1))
        space, row = spaces.pop(at) if at < len(spaces) else (capacity + frame, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(piece)
        if space > needed:
            insort(spaces, (space - needed, row))
    return [sorted(row) for row in rows]


def in_order(pieces: Sequence[TokenRange], capacity: int) -> list[PackedRow]:
    """Whole sentences one after another until the next does not fit (FULL-SENTENCES of Liu et al. 2019, "RoBERTa", arXiv
    1907.11692, section 4.2). A sentence longer than a row is cut."""
    rows: list[PackedRow] = []
    space = 0
    for start, length in pieces:
        for at in range(start, start + length, capacity):
            part = min(capacity, start + length - at)
            if part > space:
                rows.append([])
                space = capacity
            rows[-1].append((at, part))
            space -= part
    return rows


def exactly(count: int, rows: list[PackedRow], capacity: int, frame: int = 0) -> list[PackedRow]:
    """The same tokens in `count` rows, none of them empty: where there are too many rows, pieces of the emptiest are cut
    to fill the gaps of others; where there are too few, those of most pieces are divided.

    The tokens, with a `frame` around each piece, must fit into so many rows, and be as many at least.
    """
    rows = sorted(rows, key=lambda row: (-_room(row, frame), row))
    if len(rows) > count:
        rows = _filled(rows[:count], [piece for row in rows[count:] for piece in row], capacity + frame, frame)
    while len(rows) < count:
        at = max(range(len(rows)), key=lambda i: (len(rows[i]), _room(rows[i])))
        row = rows[at]
        if len(row) == 1:
            (start, length), half = row[0], row[0][1] // 2
            row = [(start, half), (start + half, length - half)]
        rows[at : at + 1] = [row[: len(row) // 2], row[len(row) // 2 :]]
    return rows


def joined(row: Iterable[TokenRange]) -> PackedRow:
    """A row with pieces that touch made one."""
    merged: PackedRow = []
    for start, length in row:
        if merged and sum(merged[-1]) == start:
            merged[-1] = (merged[-1][0], merged[-1][1] + length)
        else:
            merged.append((start, length))
    return merged


def pieces_between(bounds: Sequence[int]) -> list[TokenRange]:
    """The pieces that begin and end at `bounds`, ascending; empty ones are left out."""
    return [(start, stop - start) for start, stop in pairwise(bounds) if stop > start]


def _filled(rows: list[PackedRow], pieces: Sequence[TokenRange], room: int, frame: int) -> list[PackedRow]:
    """`rows` with `pieces` cut into what room they have left, the largest first."""
    spaces = sorted(((room - _room(row, frame), i) for i, row in enumerate(rows)), reverse=True)
    rows, at = [list(row) for row in rows], 0
    for start, length in pieces:
        while length:
            assert at < len(spaces), "the tokens do not fit into the rows"
            space, row = spaces[at]
            part = min(space - frame, length)
            if part > 0:
                rows[row].append((start, part))
                start, length, space = start + part, length - part, space - part - frame
            spaces[at] = (space, row)
            at += space <= frame
    return [sorted(row) for row in rows]


def _room(row: PackedRow, frame: int = 0) -> int:
    return sum(length + frame for _, length in row)
