import numpy as np
import pytest

from dist_plm.data.special_tokens import SpecialTokens, word_continuations
from tests.objectives.text import SPECIAL, VOCAB


@pytest.mark.parametrize(
    ("style", "pieces", "continuing"),
    [
        ("wordpiece", ["[CLS]", "play", "##ing", "##", "#", "un"], ["##ing"]),
        ("byte_level", ["<s>", "Ġplay", "ing", "Ċ", "Ċnew", ",", "ĉ"], ["ing", ","]),
        ("unigram", ["</s>", "▁play", "ing", "▁"], ["ing"]),
    ],
)
def test_which_pieces_continue_a_word(style, pieces, continuing):
    table = word_continuations(pieces, style, special=[0])
    assert [p for p, continues in zip(pieces, table, strict=True) if continues] == continuing


def test_bert_vocabularies_words_come_out_whole():
    pieces = ["[CLS]", "[SEP]", "the", "trans", "##form", "##er", "learn", "##s"]
    table = word_continuations(pieces, "wordpiece", special=[0, 1])
    assert table.tolist() == [False, False, False, False, True, True, False, True]


def test_the_table_of_special_tokens():
    table = SPECIAL.is_special()
    assert table.shape == (VOCAB,)
    assert np.flatnonzero(table).tolist() == sorted(SPECIAL.ids)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ids": (0, 10)}, "outside the vocabulary"),
        ({"ids": (0,), "mask": 3}, "not among the ids"),
        ({"ids": (0,), "sentinels": (4,)}, "not among the ids"),
        ({"ids": (0,), "continues": np.zeros(9, dtype=bool)}, "continues"),
    ],
)
def test_contradictions_are_our_own_mistakes(wrong, said):
    with pytest.raises(AssertionError, match=said):
        SpecialTokens(vocab_size=10, **wrong)
