"""Answers compared as the official scripts of SQuAD do; the values are worked out by hand from their code."""

import itertools

import numpy as np
import pytest

from dist_plm.objectives.metrics.exact_match import best_share, compare, exact_match, normalized, word_f1
from dist_plm.objectives.metrics.spans import best_spans


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Cat,  sat!", "cat sat"),
        ("a-b", "ab"),  # punctuation goes before articles do
        ("An apple a day; the end", "apple day end"),
        ("theatre and another", "theatre and another"),
        ("A.", ""),
        ("“Ünïcode”", "“ünïcode”"),  # string.punctuation is of ASCII
        ("$1,000.50", "100050"),
    ],
)
def test_normalized(text: str, wanted: str) -> None:
    assert normalized(text) == wanted


@pytest.mark.parametrize(
    ("said", "truth", "exact", "f1"),
    [
        ("the Denver Broncos.", "Denver Broncos", 1.0, 1.0),
        ("Denver", "Denver Broncos", 0.0, 2 / 3),
        ("Broncos of Denver", "Denver Broncos", 0.0, 0.8),  # 2 of 3 and 2 of 2
        ("to be or not to be", "to be", 0.0, 0.5),  # each word as often as both have it: 2 of 6 and 2 of 2
        ("cat", "dog", 0.0, 0.0),
    ],
)
def test_values_by_hand(said: str, truth: str, exact: float, f1: float) -> None:
    assert exact_match(said, truth) == exact
    for empty_matches in (False, True):
        assert word_f1(said, truth, empty_matches=empty_matches) == pytest.approx(f1)


def test_nothing_is_right_where_there_is_no_answer() -> None:
    """As SQuAD 2.0's script has it; that of 1.1 finds no shared word in two empty answers."""
    assert compare("", [], may_be_none=True) == (1.0, 1.0)
    assert compare("x", [], may_be_none=True) == (0.0, 0.0)
    assert compare("", ["x"], may_be_none=True) == (0.0, 0.0)
    assert compare("the", ["a", "x"], may_be_none=True) == (0.0, 0.0), "answers without words do not count there"
    assert compare("the", ["a"], may_be_none=True) == (1.0, 1.0)
    assert compare("the", ["a"], may_be_none=False) == (1.0, 0.0)


def test_the_nearest_of_the_true_answers_counts() -> None:
    assert compare("two cats", ["dogs", "cats", "two old cats"], may_be_none=False) == (0.0, pytest.approx(0.8))


def test_the_best_threshold() -> None:
    """Against every threshold between the odds, and beyond them."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        gains, losses = draw.random(7), (draw.random(7) < 0.4).astype(float)
        odds = draw.integers(-3, 3, 7).astype(float)  # with equal ones
        wanted = max(np.where(odds > at, losses, gains).mean() for at in (-9.0, *odds))
        assert best_share(gains, losses, odds) == pytest.approx(wanted)


@pytest.mark.parametrize(("size", "longest", "count"), [(1, 5, 3), (9, 3, 4), (9, 30, 100), (12, 1, 5)])
def test_the_best_spans_of_all(size: int, longest: int, count: int) -> None:
    draw = np.random.default_rng(size)
    starts, ends = draw.normal(size=(2, size)).astype(np.float32)
    spans = [(i, j) for i, j in itertools.combinations_with_replacement(range(size), 2) if j - i < longest]
    wanted = sorted(spans, key=lambda span: -(starts[span[0]] + ends[span[1]]))[:count]
    found = best_spans(starts, ends, count, longest)
    assert [span[1:] for span in found] == wanted
    assert found[0][0] == pytest.approx(float(starts[wanted[0][0]] + ends[wanted[0][1]]))
