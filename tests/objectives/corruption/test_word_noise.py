"""Words of labelled texts are changed whole, in their text, and by (seed, sample) alone."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.objectives.corruption.changeable_words import WordTable, words_of_texts
from dist_plm.objectives.corruption.word_noise import WordNoise
from dist_plm.spec.augmentation import AugmentConfig

PAD, CLS, SEP, MASK = range(4)
VOCAB, LENGTH = 300, 48
#: Tokens from 200 on go on a word: word w is (w,) or (w, w + 150).
CONTINUES = np.arange(VOCAB) >= 200
SPECIAL = np.arange(VOCAB) < 4


def words_of(first, count):
    return [(w, w + 150) if w % 3 == 0 and w >= 50 else (w,) for w in range(first, first + count)]


def batch_of(samples, counts=(9, 5)):
    """Pairs of texts whose words all differ: [CLS] a [SEP] b [SEP]."""
    texts = [words_of(10, counts[0]), words_of(60, counts[1])]
    rows = [CLS, *sum(texts[0], ()), SEP]
    segments = [0] * len(rows) + [1] * (len(sum(texts[1], ())) + 1)
    rows += [*sum(texts[1], ()), SEP]
    tokens = np.full((len(samples), LENGTH), PAD)
    tokens[:, : len(rows)] = rows
    parts = np.zeros_like(tokens)
    parts[:, : len(rows)] = segments
    return {"tokens": tokens, "segments": parts, "lengths": np.full(len(samples), len(rows)), "samples": samples}


def noisy(samples, seed=7, counts=(9, 5), **shares):
    words = partial(words_of_texts, table=WordTable(SPECIAL, CONTINUES))
    noise = WordNoise(lambda numbers: batch_of(numbers, counts), AugmentConfig(**shares), words, MASK, PAD, seed)
    return noise(np.asarray(samples))


def texts_of(batch, row):
    """The words of both texts of a row, having looked at what stands around them."""
    tokens, length = batch["tokens"][row].tolist(), int(batch["lengths"][row])
    assert set(tokens[length:]) <= {PAD}
    assert not batch["segments"][row, length:].any()
    first = tokens.index(SEP)
    assert (tokens[0], tokens[length - 1]) == (CLS, SEP)
    assert batch["segments"][row, :length].tolist() == [0] * (first + 1) + [1] * (length - first - 1)
    texts = []
    for part in (tokens[1:first], tokens[first + 1 : length - 1]):
        words = []
        for token in part:
            words = [*words[:-1], (*words[-1], token)] if CONTINUES[token] else [*words, (token,)]
        texts.append(words)
    return texts


def test_nothing_changes_without_a_share():
    plain, same = batch_of(np.arange(5)), noisy(range(5))
    assert all(np.array_equal(plain[name], same[name]) for name in plain)


@given(share=st.floats(0.0, 0.99), seed=st.integers(0, 2**40), counts=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_words_are_left_out_whole_and_one_stays(share, seed, counts):
    batch = noisy(range(8), seed, counts, delete=share)
    for row in range(8):
        for words, whole in zip(texts_of(batch, row), (words_of(10, counts[0]), words_of(60, counts[1])), strict=True):
            assert words
            assert words == [word for word in whole if word in set(words)], "in their order"


@given(share=st.floats(0.0, 0.99), seed=st.integers(0, 2**40))
def test_words_change_places_within_their_text(share, seed):
    batch = noisy(range(8), seed, swap=share)
    for row in range(8):
        first, second = texts_of(batch, row)
        assert sorted(first) == words_of(10, 9)
        assert sorted(second) == words_of(60, 5)


@given(seed=st.integers(0, 2**40))
def test_what_begins_a_text_as_if_it_went_on_a_word_stays_there(seed):
    """As byte-level tokenizers write the first word of a text: without the space that others begin with."""
    first, rest = [202, 203], [(5,), (6, 206), (7,), (8, 208)]
    tokens = np.array([[CLS, *first, *sum(rest, ()), SEP]])
    batch = {"tokens": tokens, "lengths": np.array([tokens.shape[1]]), "samples": np.zeros(1, dtype=int)}
    words = partial(words_of_texts, table=WordTable(SPECIAL, CONTINUES))
    swapped = WordNoise(lambda _: batch, AugmentConfig(swap=0.9), words, MASK, PAD, seed)(None)["tokens"][0].tolist()
    assert swapped[:3] == [CLS, *first]
    found: list[tuple[int, ...]] = []
    for token in swapped[3:-1]:
        found = [*found[:-1], (*found[-1], token)] if CONTINUES[token] else [*found, (token,)]
    assert sorted(found) == rest


def test_words_are_masked_whole():
    batch = noisy(range(500), mask=0.3)
    plain = batch_of(np.arange(500))["tokens"]
    assert set(batch["tokens"][batch["tokens"] != plain]) == {MASK}
    two = np.flatnonzero(CONTINUES[plain[0]])
    assert np.array_equal(batch["tokens"][:, two] == MASK, batch["tokens"][:, two - 1] == MASK)


@pytest.mark.parametrize("kind", ["delete", "swap", "mask"])
def test_as_many_as_were_asked_for(kind):
    batch, words = noisy(range(2000), counts=(18, 15), **{kind: 0.2}), 33 * 2000
    plain = batch_of(np.arange(2000), (18, 15))["tokens"]
    if kind == "delete":
        gone = words - sum(len(text) for row in range(2000) for text in texts_of(batch, row))
        assert gone / words == pytest.approx(0.2, abs=0.01)
    elif kind == "mask":
        begins = ~SPECIAL[plain] & ~CONTINUES[plain]
        assert (batch["tokens"][begins] == MASK).mean() == pytest.approx(0.2, abs=0.01)
    else:  # of those chosen one stays on average
        whole = words_of(10, 18)
        moved = [sum(a != b for a, b in zip(texts_of(batch, row)[0], whole, strict=True)) for row in range(2000)]
        assert np.mean(moved) == pytest.approx(0.2 * 18 - 1, abs=0.2)


def test_a_sample_is_the_same_beside_any_other_and_another_in_each_epoch():
    shares = {"delete": 0.2, "swap": 0.3, "mask": 0.1}
    together, alone = noisy([3, 4, 5, 1003], **shares), noisy([4], **shares)
    assert all(np.array_equal(together[name][1], alone[name][0]) for name in together)
    assert not np.array_equal(together["tokens"][0], together["tokens"][3])
    assert not np.array_equal(noisy([4], seed=8, **shares)["tokens"], alone["tokens"])
