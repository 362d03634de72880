import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.monitor.formatting import ASCII_RAMP, UNICODE_RAMP, compact, duration, plain, size, sparkline, table


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.0123, "0.0123"),
        (999, "999"),
        (999.6, "1k"),
        (1000, "1k"),
        (8123, "8.12k"),
        (100_000, "100k"),
        (999_600, "1M"),
        (1.5e9, "1.5B"),
        (3e12, "3T"),
        (math.inf, "inf"),
    ],
)
def test_compact(number, text):
    assert compact(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (3e-4, "0.0003"),
        (4.12345, "4.123"),
        (9999.4, "9999"),
        (49020.8, "49,021"),
        (2e9, "2e+09"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_plain(number, text):
    assert plain(number) == text


@settings(deadline=None)
@given(st.floats(1, 1e14))
def test_compact_keeps_three_digits(number):
    text = compact(number)
    size = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1], 1.0)
    assert float(text.rstrip("kMBT")) * size == pytest.approx(number, rel=5.1e-3)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (7620, "2h07m"),
        (356400, "4d03h"),
        (math.inf, "?"),
        (math.nan, "?"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (832_000, "812 KiB"),
        (2**20 - 1, "1 MiB"),
        (1_000_000, "977 KiB"),
        (4.2 * 2**30, "4.2 GiB"),
        (1010 * 2**30, "1,010 GiB"),
        (3 * 2**40, "3 TiB"),
        (2**60, "1,048,576 TiB"),
    ],
)
def test_size_never_says_that_something_is_nothing(num_bytes, text):
    assert size(num_bytes) == text


def test_sparkline_goes_from_high_to_low():
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == UNICODE_RAMP[::-1]
    assert sparkline(list(range(800)), width=8, ramp=ASCII_RAMP) == ASCII_RAMP


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), st.integers(1, 50))
def test_sparkline_fits_and_shows_the_extremes(values, width):
    line = sparkline(values, width=width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(UNICODE_RAMP)
    assert UNICODE_RAMP[0] in line


def test_sparkline_marks_what_is_not_finite():
    assert sparkline([1.0, math.nan, 2.0, math.inf]) == "▁!█!"
    assert sparkline([math.nan]) == "!"
    assert sparkline([]) == ""


def test_table_aligns():
    assert table([["name", "x"], ["a", "100"], ["long name", ""]]) == "name         x\na          100\nlong name"
