"""Words of Chinese text against jieba itself on plain strings, and masking that keeps them whole."""

import pickle

import jieba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.core.errors import ConfigError
from dist_plm.data.samples import Pairs, Windows
from dist_plm.data.special_tokens import SpecialTokens, word_continuations
from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.build import build_objective
from dist_plm.objectives.corruption.word_segmenter import WordSegmenter
from dist_plm.spec.objectives import OBJECTIVES
from tests.objectives.text import sentences_of

#: Cui et al. 2019, table 1, between English words and punctuation.
TEXT = "使用语言模型来预测下一个词的概率"
SPECIAL_PIECES = ["[PAD]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*SPECIAL_PIECES, *dict.fromkeys(TEXT), "##的", "playing", "##ground", "。", "語言", "▁模型"]
NUMBER = {piece: number for number, piece in enumerate(PIECES)}
CONTINUES = word_continuations(PIECES, "wordpiece", range(4))
SPECIAL = SpecialTokens(
    vocab_size=len(PIECES), ids=(0, 1, 2, 3), continues=CONTINUES, pieces=PIECES, pad=0, cls=1, sep=2, mask=3
)


def tokens_of(*pieces: str) -> np.ndarray:
    return np.array([NUMBER[piece] for piece in pieces])


def segment(tokens: np.ndarray, ends=None) -> list[int]:
    ends = np.array([len(tokens)] if ends is None else ends)
    return WordSegmenter.of(PIECES, CONTINUES)(tokens, ends).tolist()


def joined(pieces: list[str], words: list[int]) -> list[str]:
    return [
        "".join(p.removeprefix("##") for p, w in zip(pieces, words, strict=True) if w == n) for n in sorted({*words})
    ]


def test_the_example_of_the_paper():
    pieces = ["playing", "##ground", *TEXT, "。", "playing"]
    words = joined(pieces, segment(tokens_of(*pieces)))
    assert words == ["playingground", *jieba.lcut(TEXT), "。", "playing"]
    assert {"语言", "模型", "预测", "概率"} <= set(words)


@given(st.lists(st.sampled_from(PIECES[4:-3]), min_size=1, max_size=30))
def test_stretches_of_chinese_are_words_of_jieba(pieces):
    words = joined(pieces, segment(tokens_of(*pieces)))
    expected, stretch = [], ""
    for piece in [*pieces, ""]:
        bare = piece.removeprefix("##")
        if bare and bare in TEXT:
            stretch += bare
            continue
        expected += jieba.lcut(stretch)
        stretch = ""
        if piece == "##ground" and expected and expected[-1].startswith("playing"):
            expected[-1] += bare
        elif piece:
            expected.append(bare)
    if "##ground" not in pieces:
        assert words == expected
    assert "".join(words) == "".join(piece.removeprefix("##") for piece in pieces)


def test_words_do_not_reach_across_rows_and_rows_do_not_matter_to_each_other():
    row = tokens_of(*"语言模型")
    apart = segment(np.concatenate([row[:1], row[1:2], row[2:]]), ends=[1, 2, 4])
    assert apart == [1, 2, 3, 3]
    both = segment(np.concatenate([row, row]), ends=[4, 8])
    assert both[:4] == segment(row)
    assert [word - both[4] + 1 for word in both[4:]] == segment(row)


def test_a_token_of_several_characters_belongs_to_the_word_it_begins():
    assert joined(["语", "言", "模型", "来"], segment(tokens_of("语", "言", "▁模型", "来"))) == jieba.lcut("语言模型来")
    pieces = ["语", "言模", "型", "来"]  # the second holds the end of a word and the beginning of the next
    words = WordSegmenter.of(pieces, np.zeros(4, dtype=bool))(np.arange(4), np.array([4]))
    assert joined(pieces, words.tolist()) == ["语言模型", "来"]


def objective(name: str, **settings):
    config = OBJECTIVES[name](mask_units="words", word_segmenter="jieba", **settings)
    return pickle.loads(pickle.dumps(build_objective(config, SPECIAL, seed=1, sequence_length=48)))


def test_chinese_words_are_masked_whole():
    line = tokens_of(*TEXT * 2, "。", *TEXT)
    rows = np.tile(line[:47], (300, 1))
    windows = Windows(rows, np.zeros(rows.shape, dtype=np.int32), np.arange(300))
    masked = objective("mlm").collate(windows)["labels"][:, 1:-1] != IGNORED
    words = np.array(segment(line[:47])[:-1])
    assert 0.1 < masked.mean() < 0.2
    for word in np.unique(words):
        inside = masked[:, words == word]
        assert (inside.any(axis=1) == inside.all(axis=1)).all()
    assert masked.any(axis=0).all()


def test_chinese_words_of_pairs_are_masked_whole():
    sentence = tokens_of(*TEXT, "。").tolist()
    pairs = Pairs(sentences_of([[sentence] * 3] * 200), None, np.arange(200))
    batch = objective("mlm_sop", short_rate=0.0).collate(pairs)
    text = np.where(batch["labels"] == IGNORED, batch["tokens"], batch["labels"])
    start, stop = NUMBER["概"], NUMBER["率"]
    rows, columns = np.nonzero((text[:, :-1] == start) & (text[:, 1:] == stop))
    masked = batch["labels"] != IGNORED
    assert masked[rows, columns].any()
    assert (masked[rows, columns] == masked[rows, columns + 1]).all()


def test_bytes_have_no_words():
    bytes_only = SpecialTokens(vocab_size=4, ids=(0,), continues=np.zeros(4, dtype=bool), mask=0)
    config = OBJECTIVES["mlm"](mask_units="words", word_segmenter="jieba")
    with pytest.raises(ConfigError, match="tokenizer are bytes"):
        build_objective(config, bytes_only, seed=1)
