"""Seeds by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.core.randomness.random_numbers import key

PARTS = st.lists(st.integers() | st.text(max_size=8), max_size=5).map(tuple)


@given(PARTS, PARTS)
def test_keys_differ_where_parts_do(one, other):
    assert (key(*one) == key(*other)) == (one == other)
    assert 0 <= key(*one) < 2**63


@pytest.mark.parametrize(
    ("one", "other"), [(("ab", "c"), ("a", "bc")), ((1,), ("1",)), ((1, 2), (12,)), (("",), ()), ((1, 2), (2, 1))]
)
def test_keys_of_what_looks_alike_differ(one, other):
    assert key(*one) != key(*other)


def test_keys_are_for_ever():
    """Initial weights and dropout follow from them: with other values a resumed run would be another one."""
    assert key(1234, "embedding.word.weight", 0) == 8717474087636122073
