from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.samples import Pairs
from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.build import build_objective
from dist_plm.spec.objectives import OBJECTIVES
from tests.objectives.text import CLS, PAD, SEP, SPECIAL, random_runs, sentences_of

KINDS = ["mlm_nsp", "mlm_sop"]


def objective(name: str, sequence_length: int = 32, **settings):
    return build_objective(OBJECTIVES[name](**settings), SPECIAL, seed=1, sequence_length=sequence_length)


def pairs_of(rows: int, tokens: int, seed: int = 0) -> Pairs:
    draw = np.random.default_rng(seed)
    first, second = (sentences_of(random_runs(draw, rows, tokens)) for _ in range(2))
    return Pairs(first, second, np.arange(rows))


@pytest.mark.parametrize("name", KINDS)
@given(seed=st.integers(0, 2**31), sequence_length=st.integers(6, 48))
def test_rows_are_framed_and_padded(name, seed, sequence_length):
    batch = objective(name, sequence_length).collate(pairs_of(5, sequence_length - 3, seed))
    text = np.where(batch["labels"] == IGNORED, batch["tokens"], batch["labels"])
    for row, segments, length, label in zip(
        text.tolist(), batch["segments"].tolist(), batch["lengths"], batch["pair_labels"], strict=True
    ):
        assert len(row) == sequence_length
        assert row[0] == CLS
        assert row[length - 1] == SEP
        assert row[length:] == [PAD] * (sequence_length - length)
        assert row.count(SEP) == (1 if label == IGNORED else 2)
        split = row.index(SEP) + 1
        assert segments == [0] * split + [1] * (length - split) + [0] * (sequence_length - length)
    special = SPECIAL.is_special()[text]
    assert (batch["labels"][special] == IGNORED).all()


def test_text_that_fills_the_sequence_has_no_padding():
    batch = objective("mlm_sop", 32, short_rate=0.0).collate(pairs_of(200, 29))
    # A third of the documents are short.
    assert (batch["lengths"] == 32).mean() > 0.6


@pytest.mark.parametrize(("name", "loss"), [("mlm_nsp", "nsp"), ("mlm_sop", "sop")])
def test_both_losses_count_their_own(name, loss):
    built = objective(name, pair_weight=0.5)
    batch = built.collate(pairs_of(40, 29))
    assert {n: term.weight for n, term in built.losses.items()} == {"mlm": 1.0, loss: 0.5}
    assert built.losses["mlm"].count(batch) == (batch["labels"] != IGNORED).sum() > 0
    assert built.losses[loss].count(batch) == (batch["pair_labels"] != IGNORED).sum() > 0
    assert (built.source, built.window_length(32)) == ("pairs", 29)


@pytest.mark.parametrize("name", KINDS)
def test_a_segmenters_words_are_masked_whole(name):
    draw = np.random.default_rng(0)

    def words_of(tokens, ends):
        return np.arange(len(tokens)) // 5

    pairs = Pairs(sentences_of(random_runs(draw, 60, 61)), sentences_of(random_runs(draw, 60, 61)), np.arange(60))
    words = np.concatenate([words_of(run.tokens, run.ends) for run in (pairs.first, pairs.second)])
    assert set(np.unique(words, return_counts=True)[1]) >= {5}
    batch = replace(objective(name, 64, mask_units="words", mask_rate=0.4), segmenter=words_of).collate(pairs)
    masked = (batch["labels"] != IGNORED) & (np.arange(64) < batch["lengths"][:, None])
    # Words of five tokens, cut at segment ends alone: masked tokens come in runs.
    runs = (masked[:, 1:] & ~masked[:, :-1]).sum() + masked[:, 0].sum()
    assert masked.sum() / runs > 4


def test_without_a_second_run_only_the_order_is_predicted():
    pairs = pairs_of(10, 29)
    alone = Pairs(pairs.first, None, pairs.samples)
    with_second, without = (objective("mlm_sop").collate(p) for p in (pairs, alone))
    for name, array in without.items():
        np.testing.assert_array_equal(array, with_second[name])
    with pytest.raises(AssertionError, match="second runs"):
        objective("mlm_nsp").collate(alone)
