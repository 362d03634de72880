from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.sampling.packers import best_fit, exactly, in_order, joined, pieces_between

lengths_strategy = st.lists(st.integers(1, 30), min_size=1, max_size=60)


def pieces_of(lengths):
    bounds = [5]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    return pieces_between(bounds)


def tokens_of(rows):
    return [token for row in rows for start, length in row for token in range(start, start + length)]


@given(lengths=lengths_strategy, capacity=st.integers(1, 20), packer=st.sampled_from([best_fit, in_order]))
def test_no_token_is_lost_or_repeated_and_no_row_is_too_long(lengths, capacity, packer):
    rows = packer(pieces_of(lengths), capacity)
    assert sorted(tokens_of(rows)) == list(range(5, 5 + sum(lengths)))
    assert all(0 < len(tokens_of([row])) <= capacity for row in rows)


@given(lengths=lengths_strategy, capacity=st.integers(1, 20))
def test_best_fit_cuts_only_what_is_longer_than_a_row(lengths, capacity):
    pieces = {piece for row in best_fit(pieces_of(lengths), capacity) for piece in row}
    assert pieces >= {piece for piece in pieces_of(lengths) if piece[1] <= capacity}
    assert len(pieces) == sum(-(-length // capacity) for length in lengths)


def test_best_fit_on_a_worked_example():
    """Lengths 6, 5, 4, 3, 2 into rows of 10: 6 and 4 fill one, 5, 3 and 2 the other."""
    rows = best_fit(pieces_of([3, 6, 2, 5, 4]), 10)
    assert sorted(sorted(length for _, length in row) for row in rows) == [[2, 3, 5], [4, 6]]


@given(lengths=lengths_strategy, capacity=st.integers(1, 20))
def test_sentences_stay_in_order_and_the_next_one_would_not_fit(lengths, capacity):
    rows = in_order(pieces_of(lengths), capacity)
    assert tokens_of(rows) == list(range(5, 5 + sum(lengths)))
    for row, following in pairwise(rows):
        assert len(tokens_of([row])) + following[0][1] > capacity


@given(lengths=lengths_strategy, capacity=st.integers(2, 20), data=st.data())
def test_any_possible_number_of_rows_holds_the_same_tokens(lengths, capacity, data):
    packer = data.draw(st.sampled_from([best_fit, in_order]))
    count = data.draw(st.integers(-(-sum(lengths) // capacity), sum(lengths)))
    rows = exactly(count, packer(pieces_of(lengths), capacity), capacity)
    assert len(rows) == count
    assert sorted(tokens_of(rows)) == list(range(5, 5 + sum(lengths)))
    assert all(0 < len(tokens_of([row])) <= capacity for row in rows)
    assert tokens_of([joined(row) for row in rows]) == tokens_of(rows)


def test_pieces_that_touch_become_one():
    assert joined([(0, 3), (3, 2), (7, 1), (8, 4)]) == [(0, 5), (7, 5)]


def test_tokens_that_do_not_fit_are_our_mistake():
    with pytest.raises(AssertionError, match="do not fit"):
        exactly(1, best_fit(pieces_of([3, 4]), 5), 5)
