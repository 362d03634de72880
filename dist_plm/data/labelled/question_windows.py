"""Cuts long texts into overlapping windows, and tells where in its text each token of a window stands."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.labelled.table import Ragged

#: Where tokens begin and end in their text, in characters, [N, 2].
Offsets = NDArray[np.int64]


class QuestionWindows(NamedTuple):
    """Holds windows of W texts, each behind the question that is asked of the text.

    Args:
        tokens, segments: of a pair, as the model reads them.
        rows: [W], the number of each one's text.
        firsts: [W], the number of its first token among those of the text.
        context_at: [W], where in `tokens` the window's part of the text begins.
        char_starts, char_ends: where in the text, in characters, its tokens begin and end.
    """

    tokens: Ragged
    segments: Ragged
    rows: NDArray[np.int64]
    firsts: NDArray[np.int64]
    context_at: NDArray[np.int64]
    char_starts: Ragged
    char_ends: Ragged


def window_bounds(count: int, room: int, stride: int) -> Iterator[tuple[int, int]]:
    """Yields the first token of each window over `count` tokens and the one after its last. Windows hold `room` tokens and
    begin `stride` apart; the last ends where the tokens do."""
    start = 0
    while start + room < count:
        yield start, start + room
        start += stride
    yield start, count


def trimmed(text: str, offsets: Offsets) -> Offsets:
    """Offsets without the spaces that byte-level and SentencePiece tokens begin with."""
    blank = np.fromiter((char.isspace() for char in text), bool, len(text))
    if not blank.any():
        return offsets
    where = np.arange(len(text) + 1)
    # Of each character the next and the last one before it that is no space.
    after = np.minimum.accumulate(np.where(np.append(blank, False), len(text), where)[::-1])[::-1]
    before = np.maximum.accumulate(np.where(np.append(False, blank), 0, where))
    starts = np.minimum(after[offsets[:, 0]], offsets[:, 1])
    return np.stack([starts, np.maximum(before[offsets[:, 1]], starts)], axis=1)
