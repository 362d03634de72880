from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.objectives.base import IGNORED
from dist_plm.objectives.corruption.masking import Masking
from dist_plm.objectives.corruption.span_masking import SpanLengths
from tests.objectives.statistics import chi_square_z, rate_z
from tests.objectives.text import CLS, CONTINUED, CONTINUES, FIRST, LAST, MASK, PAD, SEP, SPECIAL, rows_of, windows_of

IS_SPECIAL = SPECIAL.is_special()
BERT = Masking(
    seed=7,
    rate=0.15,
    split=(0.8, 0.1, 0.1),
    units="tokens",
    span_lengths=SpanLengths(0.2, 10),
    mask=MASK,
    is_special=IS_SPECIAL,
    ordinary=np.flatnonzero(~IS_SPECIAL),
    continues=CONTINUES,
)
UNITS = ["tokens", "words", "spans"]
ROWS, LENGTH = 4096, 256  # a million tokens


def masking(units: str = "tokens", **changes) -> Masking:
    return replace(BERT, units=units, **changes)


@pytest.fixture(scope="module", params=UNITS)
def million(request):
    windows = windows_of(ROWS, LENGTH)
    tokens = windows.tokens[:, :-1]
    corrupted, labels = masking(request.param)(tokens, windows.samples, documents=windows.documents[:, :-1])
    return request.param, tokens, corrupted, labels


def test_rate_over_a_million_tokens(million):
    _, tokens, _, labels = million
    maskable = ~IS_SPECIAL[tokens]
    assert maskable.sum() > 10**6
    assert abs(rate_z((labels != IGNORED).sum(), maskable.sum(), 0.15)) < 4


def test_split_over_a_million_tokens(million):
    units, tokens, corrupted, labels = million
    masked = labels != IGNORED
    num, ordinary = masked.sum(), len(BERT.ordinary)
    # A random replacement is the token itself now and then.
    shares = {"mask": 0.8, "kept": 0.1 + 0.1 / ordinary, "random": 0.1 * (1 - 1 / ordinary)}
    hits = {"mask": (corrupted == MASK) & masked, "kept": (corrupted == tokens) & masked}
    hits["random"] = masked & ~hits["mask"] & ~hits["kept"]
    # The tokens of a span share one draw: as many independent draws as there are spans, about.
    together = 9 if units == "spans" else 1
    for name, share in shares.items():
        assert abs(rate_z(hits[name].sum(), num, share)) < 4 * np.sqrt(together), name


def test_replacements_are_uniform_over_ordinary_tokens(million):
    _, tokens, corrupted, labels = million
    drawn = corrupted[(labels != IGNORED) & (corrupted != MASK) & (corrupted != tokens)]
    assert not IS_SPECIAL[drawn].any()
    assert abs(chi_square_z(np.bincount(drawn, minlength=LAST + 1)[FIRST:], drawn.size / len(BERT.ordinary))) < 5


def test_special_tokens_stay_and_are_never_predicted(million):
    _, tokens, corrupted, labels = million
    special = IS_SPECIAL[tokens]
    np.testing.assert_array_equal(corrupted[special], tokens[special])
    assert (labels[special] == IGNORED).all()


def test_labels_are_the_tokens_and_the_rest_is_unchanged(million):
    _, tokens, corrupted, labels = million
    masked = labels != IGNORED
    np.testing.assert_array_equal(labels[masked], tokens[masked])
    np.testing.assert_array_equal(corrupted[~masked], tokens[~masked])


def test_places_are_masked_equally_often(million):
    _, tokens, _, labels = million
    maskable = ~IS_SPECIAL[tokens]
    z = [rate_z(h, n, 0.15) for h, n in zip((labels != IGNORED).sum(axis=0), maskable.sum(axis=0), strict=True)]
    assert max(np.abs(z)) < 5
    assert np.std(z) == pytest.approx(1, abs=0.25)


def test_words_are_masked_whole(million):
    units, tokens, _, labels = million
    joined = CONTINUES[tokens[:, 1:]] & ~IS_SPECIAL[tokens[:, :-1]]
    masked = labels != IGNORED
    torn = (masked[:, 1:] != masked[:, :-1]) & joined
    assert torn.any() == (units == "tokens")


def test_a_span_is_replaced_as_a_whole():
    windows = windows_of(64, LENGTH, end_rate=0)
    tokens = windows.tokens[:, :-1]
    whole = masking("spans", split=(0.5, 0.0, 0.5), span_lengths=SpanLengths(1e-9, 10))
    corrupted, labels = whole(tokens, windows.samples)
    masked = labels != IGNORED
    changes = ((corrupted == MASK)[:, 1:] != (corrupted == MASK)[:, :-1]) & masked[:, 1:] & masked[:, :-1]
    # Token by token half of all neighbours would differ.
    assert changes.sum() < 0.1 * masked.sum()


def test_the_number_masked_is_the_rate_but_for_rounding():
    windows = windows_of(500, 101, end_rate=0)
    _, labels = masking(rate=0.155)(windows.tokens[:, :-1], windows.samples)
    counts = (labels != IGNORED).sum(axis=1)
    assert set(counts) == {15, 16}
    assert abs(rate_z((counts == 16).sum(), 500, 101 * 0.155 - 15)) < 4


@pytest.mark.parametrize("units", UNITS)
@given(data=st.data())
def test_a_sample_is_corrupted_alike_in_any_microbatch_and_order(units, data):
    windows = windows_of(12, 60, end_rate=0.1)
    chosen = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=12))
    part = rows_of(windows, chosen)
    whole = masking(units)(windows.tokens, windows.samples, documents=windows.documents)
    alone = masking(units)(part.tokens, part.samples, documents=part.documents)
    np.testing.assert_array_equal(whole[0][chosen], alone[0])
    np.testing.assert_array_equal(whole[1][chosen], alone[1])


@pytest.mark.parametrize("units", UNITS)
def test_another_epoch_or_seed_masks_anew(units):
    windows = windows_of(200, LENGTH)
    tokens = windows.tokens
    first = masking(units)(tokens, windows.samples)[1] != IGNORED
    for other in (masking(units)(tokens, windows.samples + 10**6), masking(units, seed=8)(tokens, windows.samples)):
        both = first & (other[1] != IGNORED)
        # Independent masks meet in 0.15 x 0.15 of the tokens.
        assert both.mean() / (first.mean() ** 2) == pytest.approx(1, abs=0.15)


@given(
    st.sampled_from(UNITS),
    st.floats(0.01, 0.99),
    st.sampled_from([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.8, 0.1, 0.1)]),
    st.lists(st.lists(st.integers(0, LAST), min_size=9, max_size=9), max_size=6),
    st.integers(0, 2**40),
)
def test_any_rows(units, rate, split, rows, sample):
    tokens = np.array(rows, dtype=np.int64).reshape(len(rows), 9)
    before = tokens.copy()
    corrupted, labels = masking(units, rate=rate, split=split)(tokens, np.arange(sample, sample + len(rows)))
    masked = labels != IGNORED
    np.testing.assert_array_equal(tokens, before)
    np.testing.assert_array_equal(corrupted[~masked], tokens[~masked])
    np.testing.assert_array_equal(labels[masked], tokens[masked])
    assert not IS_SPECIAL[tokens[masked]].any()
    if split[0] == 1:
        assert (corrupted[masked] == MASK).all()
    if split[1] == 1:
        assert not IS_SPECIAL[corrupted[masked]].any()
    if split[2] == 1:
        np.testing.assert_array_equal(corrupted, tokens)


def word_begins(row: list[int], **more) -> list[int]:
    tokens = np.array([row])
    more = {name: np.array([value]) for name, value in more.items()}
    arguments = {"documents": None, "words": None, **more}
    begins = BERT._word_begins(tokens, ~IS_SPECIAL[tokens], arguments["documents"], arguments["words"])
    return np.flatnonzero(begins).tolist()


def test_where_words_begin():
    a, b, more = FIRST, FIRST + 1, CONTINUED
    assert word_begins([CLS, a, more, more, b, SEP, PAD]) == [1, 4]
    # What would continue a special token begins a word, and so does what would continue another document's.
    assert word_begins([CLS, more, more, SEP, more, a]) == [1, 4, 5]
    assert word_begins([a, more, more, b], documents=[0, 0, 1, 1]) == [0, 2, 3]


def test_words_of_a_segmenter_go_before_the_vocabulary():
    a = FIRST
    assert word_begins([CLS, a, a, a, CONTINUED, SEP], words=[0, 0, 0, 1, 2, 2]) == [1, 3, 4]


def test_rows_of_special_tokens_alone():
    tokens = np.full((3, 5), PAD)
    for units in UNITS:
        corrupted, labels = masking(units)(tokens, np.arange(3))
        np.testing.assert_array_equal(corrupted, tokens)
        assert (labels == IGNORED).all()
