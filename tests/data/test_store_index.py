from array import array
from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.store_index import bisect_from, bisect_near

values_strategy = st.lists(st.integers(0, 50), max_size=40) | st.integers(1, 9).map(
    lambda n: list(range(0, 5000 * n, n))
)


@given(values=values_strategy, data=st.data())
def test_searches_equal_a_plain_bisection(values, data):
    view = memoryview(array("q", sorted(values)))
    value = data.draw(st.integers(-1, max(values, default=0) + 2))
    expected = bisect_left(view, value)
    assert bisect_from(view, value, data.draw(st.integers(0, len(values)))) == expected
    assert bisect_near(view, value, data.draw(st.integers(0, expected)), data.draw(st.integers(0, 60))) == expected
