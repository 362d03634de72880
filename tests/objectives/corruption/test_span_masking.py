import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.core.randomness import random_numbers as rng
from dist_plm.core.randomness.random_numbers import Purpose
from dist_plm.objectives.corruption.span_masking import SpanLengths, spans_around_a_circle
from tests.objectives.statistics import chi_square_z, rate_z

SPANBERT = SpanLengths(0.2, 10)


def numbers(count: int) -> np.ndarray:
    return rng.grid(rng.keys(0, np.arange(1), Purpose.SPAN_LENGTH), count)[0]


def test_lengths_are_those_of_spanbert():
    drawn = SPANBERT.draw(numbers(200_000))
    assert drawn.mean() == pytest.approx(3.8, abs=0.03)  # figure 2 of the paper
    expected = 0.2 * 0.8 ** np.arange(10)
    counts = np.bincount(drawn, minlength=11)[1:]
    assert abs(chi_square_z(counts, expected / expected.sum() * drawn.size)) < 4


@pytest.mark.parametrize("lengths", [SpanLengths(0.5, 1), SpanLengths(1.0, 10)])
def test_spans_of_one_word(lengths):
    assert (lengths.draw(numbers(1000)) == 1).all()


@given(st.integers(0, 2**31), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8))
def test_the_budget_is_spent_to_the_word(seed, rows):
    num_words = np.array([n for n, _ in rows], dtype=np.int64)
    budget = np.array([min(n, k) for n, k in rows], dtype=np.int64)
    masked, span = spans_around_a_circle(seed, np.arange(len(rows)), num_words, budget, SPANBERT)
    np.testing.assert_array_equal(masked.sum(axis=1), budget)
    for row, n in enumerate(num_words):
        assert not masked[row, n:].any()
        assert_spans_are_whole(masked[row, :n], span[row, :n])


def assert_spans_are_whole(masked: np.ndarray, span: np.ndarray) -> None:
    """The words of each span follow one another around the circle, and spans are as long as SpanBERT's."""
    for number in np.unique(span[masked]):
        words = masked & (span == number)
        assert words.sum() <= 10
        if not words.all():
            assert (words & ~np.roll(words, 1)).sum() == 1


def test_every_word_is_masked_equally_often():
    rows, n, k = 40_000, 23, 5
    masked, _ = spans_around_a_circle(1, np.arange(rows), np.full(rows, n), np.full(rows, k), SPANBERT)
    for count in masked.sum(axis=0):
        assert abs(rate_z(count, rows, k / n)) < 4


def test_a_row_does_not_depend_on_the_others():
    num_words, budget = np.array([30, 0, 7, 200]), np.array([6, 0, 7, 31])
    together = spans_around_a_circle(9, np.arange(4), num_words, budget, SPANBERT)
    for i, n in enumerate(num_words):
        one = slice(i, i + 1)
        alone = spans_around_a_circle(9, np.arange(4)[one], num_words[one], budget[one], SPANBERT)
        np.testing.assert_array_equal(together[0][i, :n], alone[0][0, :n])
        np.testing.assert_array_equal(together[1][i, :n], alone[1][0, :n])


def test_span_lengths_survive_the_placing():
    rows, n, k = 4000, 200, 60
    masked, span = spans_around_a_circle(2, np.arange(rows), np.full(rows, n), np.full(rows, k), SPANBERT)
    # The last span of a row is cut to fit, so look at the first.
    first = (masked & (span == 0)).sum(axis=1)
    expected = 0.2 * 0.8 ** np.arange(10)
    assert abs(chi_square_z(np.bincount(first, minlength=11)[1:], expected / expected.sum() * rows)) < 4
