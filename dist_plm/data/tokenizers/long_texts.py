"""Texts that are too long to be encoded, or to be learnt from, at once."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

#: The ids of a text [T], and the characters at which their tokens begin [T].
IDs = NDArray[np.int32]
Encoded = tuple[IDs, NDArray[np.int64]]
#: Characters that two pieces have in common. Within it their tokens become the same, whatever stands before.
OVERLAP_CHARS = 4096
#: Tokens before and after a joint that have to be the same in both pieces.
_AGREEING = 16
_CUTS_TRIED = 1000


def encode_long(
    text: str,
    ids_of: Callable[[str], Sequence[int]],
    encode: Callable[[str], Encoded],
    limit: int,
    overlap: int = OVERLAP_CHARS,
) -> array:
    """The ids of a text that is encoded in pieces of `limit` characters, as if it were encoded whole.

    Each piece begins within the one before it, and is joined to it where their tokens agree: no cut shows, be it in words,
    in text without spaces, or where a tokenizer puts a space before what it gets.

    Args:
        ids_of: encodes a piece.
        encode: does the same and says where tokens begin, which takes longer: it gets what is around a joint.
    """
    assert 2 * overlap <= limit
    ids, start = array("i"), 0
    left = np.array(ids_of(text[:limit]), dtype=np.int32)

    def placed(begin: int, end: int) -> Encoded:
        numbers, places = encode(text[begin:end])
        return numbers, places + begin

    while start + limit < len(text):
        before, start, stop = start, start + limit - overlap, start + limit
        right = np.array(ids_of(text[start : start + limit]), dtype=np.int32)
        near = placed(start - overlap, stop), placed(start, stop + overlap)
        joint = _joint(*near, start, stop)
        if joint is None or not _fits(joint, near[0][0], near[1][0], left, right):
            whole = placed(before, stop), placed(start, start + limit)
            joint = _joint(*whole, start, stop) or _middle(*whole, start, stop)
        left_out, first = joint
        ids.frombytes(left[: len(left) - left_out].tobytes())
        left = right[first:]
    ids.frombytes(left.tobytes())
    return ids


def _joint(left: Encoded, right: Encoded, start: int, stop: int) -> tuple[int, int] | None:
    """How many of the last tokens of `left` are left out, and with which one of `right` it goes on, where both hold the text
    [start, stop); None where they nowhere agree."""
    (ids, places), (others, there) = left, right
    around = int(np.searchsorted(places, (start + stop) // 2))
    near = range(int(np.searchsorted(places, start)) + _AGREEING, len(ids) - _AGREEING)
    for i in sorted(near, key=lambda i: abs(i - around)):
        j = int(np.searchsorted(there, places[i]))
        mine, theirs = slice(i - _AGREEING, i + _AGREEING), slice(j - _AGREEING, j + _AGREEING)
        if places[i - 1] == places[i] or j < _AGREEING:
            continue
        if np.array_equal(ids[mine], others[theirs]) and np.array_equal(places[mine], there[theirs]):
            return len(ids) - i, j
    return None


def _fits(joint: tuple[int, int], near_left: IDs, near_right: IDs, left: IDs, right: IDs) -> bool:
    """Whether the tokens around a joint, of a part of two pieces, are those of the pieces."""
    end, begin = joint[0] + _AGREEING, joint[1] + _AGREEING
    return np.array_equal(left[-end:], near_left[-end:]) and np.array_equal(right[:begin], near_right[:begin])


def _middle(left: Encoded, right: Encoded, start: int, stop: int) -> tuple[int, int]:
    """The joint of a word without an end, or of hardly any tokens."""
    middle = (start + stop) // 2
    return len(left[0]) - int(np.searchsorted(left[1], middle)), int(np.searchsorted(right[1], middle))


def pieces_of(text: str, limit: int, boundaries: Sequence[str] = ("\n", " ")) -> list[str]:
    """`text` cut into pieces of at most `limit` characters, at the end of a line if possible, else of a word.

    `boundaries` are the characters to cut at, the better first.
    """
    cuts = [0, *_cuts(text, limit, boundaries), len(text)]
    return [text[start:stop] for start, stop in pairwise(cuts)]


def _cuts(text: str, limit: int, boundaries: Sequence[str]) -> Iterator[int]:
    """Where to cut: at a boundary, if there is one."""
    start = 0
    while len(text) - start > limit:
        stop = start + limit
        for boundary in boundaries:
            at = _cut_before(text, boundary, start, stop)
            if at is not None:
                stop = at + 1 if boundary == "\n" else at
                break
        yield stop
        start = stop


def _cut_before(text: str, boundary: str, start: int, stop: int) -> int | None:
    """Where the last `boundary` with no white space around it lies in [start, stop): a cut elsewhere may change tokens."""
    at = stop
    for _ in range(_CUTS_TRIED):
        at = text.rfind(boundary, start, at)
        if at <= start:
            return None
        if not text[at - 1].isspace() and not text[at + 1].isspace():
            return at
    return None
