import pytest

from dist_plm.config.bounds import FRACTION, Bounds, at_least, between, more_than


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "text"),
    [
        (at_least(1), [1, 2, 1e9], [0, 0.999, -1], "at least 1"),
        (more_than(0), [1e-300, 5], [0, -1], "more than 0"),
        (between(0, 1), [0, 0.5, 1], [-1e-9, 1.0001], "at least 0 and at most 1"),
        (FRACTION, [0, 0.999], [1, -0.1], "at least 0 and less than 1"),
        (Bounds(), [-1e30, 0, 1e30], [], ""),
    ],
)
def test_admits_and_says_so(bounds, inside, outside, text):
    assert all(bounds.admits(value) for value in inside)
    assert not any(bounds.admits(value) for value in outside)
    assert str(bounds) == text
