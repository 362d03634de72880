from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.objectives.corruption.add_special_tokens import NO_WORD, AddSpecialTokens
from tests.objectives.text import CLS, FIRST, LAST, PAD, SEP, SPECIAL

WITH = {
    "both": SPECIAL,
    "cls": replace(SPECIAL, sep=None),
    "sep": replace(SPECIAL, cls=None),
}


@dataclass(frozen=True, slots=True)
class PackedWindows:
    tokens: np.ndarray
    documents: np.ndarray
    samples: np.ndarray
    lengths: np.ndarray
    frame: int


def joined(lists) -> list[int]:
    return list(chain.from_iterable(lists))


def packed(rows: list[list[list[int]]], sequence_length: int, frame: int) -> PackedWindows:
    """Rows of documents as the data floor hands them out, with room for a frame around each document."""
    columns = sequence_length - frame + 1
    tokens, documents = np.zeros((2, len(rows), columns), dtype=np.int64)
    for row, texts in enumerate(rows):
        flat = joined(texts)
        tokens[row, : len(flat)] = flat
        documents[row] = len(texts)
        documents[row, : len(flat)] = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    lengths = np.array([sum(map(len, texts)) for texts in rows])
    return PackedWindows(tokens, documents.astype(np.int32), np.arange(len(rows)), lengths, frame)


texts = st.lists(st.integers(FIRST, LAST), min_size=1, max_size=9)


@given(
    st.lists(st.lists(texts, min_size=1, max_size=5), min_size=1, max_size=4),
    st.sampled_from(sorted(WITH)),
    st.booleans(),
)
def test_each_packed_document_is_framed_as_a_row_of_its_own_would_be(rows, kind, with_words):
    special = WITH[kind]
    front, back = [CLS] * (special.cls is not None), [SEP] * (special.sep is not None)
    frame = len(front) + len(back)
    length = max(sum(len(text) + frame for text in row) for row in rows)
    windows = packed(rows, length, frame)
    words = windows.tokens * 3 if with_words else None
    framed = AddSpecialTokens(special)(windows, words)
    assert framed.lengths is not None
    for number, row in enumerate(rows):
        whole = [[*front, *text, *back] for text in row]
        own = int(framed.lengths[number])
        assert framed.tokens[number].tolist() == joined(whole) + [PAD] * (length - own)
        assert (
            framed.documents[number].tolist()
            == np.repeat(np.arange(len(row) + 1), [*map(len, whole), length - own]).tolist()
        )
        if with_words:
            assert framed.words is not None
            expected = [
                w for text in row for w in ([NO_WORD] * len(front), [3 * t for t in text], [NO_WORD] * len(back))
            ]
            assert framed.words[number].tolist() == joined(expected) + [NO_WORD] * (length - own)
        else:
            assert framed.words is None


def test_a_document_alone_in_its_row_is_framed_alike_in_both_ways():
    windows = packed([[[20, 21, 22]], [[30]]], 8, 2)
    apart, around = AddSpecialTokens(SPECIAL)(windows, None), AddSpecialTokens(SPECIAL)(replace(windows, frame=0), None)
    for name in ("tokens", "documents", "lengths"):
        np.testing.assert_array_equal(getattr(apart, name), getattr(around, name))
