import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.core.randomness import random_numbers as rng
from dist_plm.core.randomness.random_numbers import Purpose
from tests.objectives.statistics import chi_square_z, rate_z

SAMPLES = np.arange(2048)
COUNTERS = 512


def numbers(seed: int = 1, purpose: Purpose = Purpose.CHOICE, samples: np.ndarray = SAMPLES) -> np.ndarray:
    return rng.grid(rng.keys(seed, samples, purpose), COUNTERS)


def test_the_stream_of_a_key_is_splitmix64():
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert rng.grid(np.array([1234567], dtype=np.uint64), 5).tolist() == [published]


def test_numbers_are_fixed_for_ever():
    keys = rng.keys(1234, np.array([0, 1, 2**40]), Purpose.CHOICE)
    assert [hex(k) for k in keys.tolist()] == ["0x4ea1d3144b24b0c0", "0x8e019c32910e1154", "0x53b13e8bd06aaaaa"]


@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 2**62), min_size=1, max_size=20), st.data())
def test_a_number_depends_on_its_own_sample_and_counter_alone(seed, samples, data):
    whole = rng.grid(rng.keys(seed, np.array(samples), Purpose.NOISE), 50)
    row = data.draw(st.integers(0, len(samples) - 1))
    counter = data.draw(st.integers(0, 49))
    alone = rng.bits(rng.keys(seed, np.array(samples[row : row + 1]), Purpose.NOISE), np.array([counter]))
    assert whole[row, counter] == alone[0]


def test_no_two_keys_are_equal():
    keys = [rng.keys(seed, np.arange(10_000), p) for seed in range(5) for p in Purpose]
    assert np.unique(np.concatenate(keys)).size == 5 * len(Purpose) * 10_000


@pytest.mark.parametrize("bit", range(64))
def test_every_bit_is_one_half_of_the_time(bit):
    ones = int((numbers() >> np.uint64(bit) & np.uint64(1)).sum())
    assert abs(rate_z(ones, numbers().size, 0.5)) < 4


@pytest.mark.parametrize("shift", [0, 20, 56])
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_bytes_are_uniform(seed, shift):
    byte = numbers(seed) >> np.uint64(shift) & np.uint64(255)
    counts = np.bincount(byte.astype(int).ravel(), minlength=256)
    assert abs(chi_square_z(counts, byte.size / 256)) < 4


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (numbers()[:, :-1], numbers()[:, 1:]),
        (numbers()[:-1], numbers()[1:]),
        (numbers(), numbers(purpose=Purpose.COUNT)),
        (numbers(), numbers(seed=2)),
        (numbers(samples=SAMPLES + 10**9), numbers(samples=SAMPLES + 2 * 10**9)),
    ],
    ids=["next counter", "next sample", "other purpose", "next seed", "other epoch"],
)
def test_neighbours_are_independent(first, second):
    a, b = rng.below(first, 16).ravel(), rng.below(second, 16).ravel()
    counts = np.bincount(16 * a + b, minlength=256)
    assert abs(chi_square_z(counts, a.size / 256)) < 4
    x, y = rng.uniform(first).ravel() - 0.5, rng.uniform(second).ravel() - 0.5
    assert abs((x * y).mean() * 12 * np.sqrt(x.size)) < 4


def test_flipping_one_bit_of_the_sample_flips_half_of_the_numbers_bits():
    for bit in range(40):
        changed = numbers() ^ numbers(samples=SAMPLES ^ (1 << bit))
        assert np.bitwise_count(changed).mean() == pytest.approx(32, abs=0.05)


def test_uniform_fills_the_half_open_interval():
    ends = rng.uniform(np.array([0, 2**64 - 1], dtype=np.uint64))
    assert ends.tolist() == [0.0, 1.0 - 2.0**-53]
    assert rng.uniform(numbers()).mean() == pytest.approx(0.5, abs=4 / np.sqrt(12 * numbers().size))


@given(st.integers(1, 2**31), st.integers(0, 2**32 - 1))
def test_below_is_the_scaled_upper_half(bound, upper):
    number = np.array([upper << 32 | 12345], dtype=np.uint64)
    assert rng.below(number, bound)[0] == upper * bound >> 32 < bound
    assert rng.below(number, np.array([bound]))[0] == upper * bound >> 32


def test_below_is_uniform():
    counts = np.bincount(rng.below(numbers(), 77).ravel())
    assert counts.size == 77
    assert abs(chi_square_z(counts, numbers().size / 77)) < 4


@pytest.mark.parametrize("trials", [0, 1, 5, 63, 64, 65, 200])
def test_half_binomial_counts_heads(trials):
    keys = rng.keys(3, np.arange(20_000), Purpose.CUT_FIRST)
    heads = rng.half_binomial(keys, np.full(20_000, trials))
    words = rng.grid(keys[:50], 4)
    tosses = (words[:, :, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)).reshape(50, 256)[:, :trials]
    np.testing.assert_array_equal(heads[:50], tosses.sum(axis=1))
    assert abs(heads.mean() - trials / 2) <= 4 * np.sqrt(trials / 4 / 20_000)
    if trials == 5:
        expected = np.array([math.comb(5, k) for k in range(6)]) / 32 * 20_000
        assert abs(chi_square_z(np.bincount(heads, minlength=6), expected)) < 4


def test_half_binomial_of_a_row_does_not_depend_on_the_others():
    keys = rng.keys(3, np.arange(4), Purpose.CUT_FIRST)
    together = rng.half_binomial(keys, np.array([3, 100, 0, 700]))
    alone = [rng.half_binomial(keys[i : i + 1], np.array([n]))[0] for i, n in enumerate([3, 100, 0, 700])]
    assert together.tolist() == alone


@given(st.integers(0, 40), st.integers(0, 6), st.data())
def test_choose_marks_the_asked_number_of_eligible_places(width, rows, data):
    eligible = np.array(data.draw(st.lists(st.booleans(), min_size=rows * width, max_size=rows * width)), dtype=bool)
    eligible = eligible.reshape(rows, width)
    count = np.array([data.draw(st.integers(0, int(row.sum()))) for row in eligible], dtype=np.int64)
    chosen = rng.choose(rng.keys(0, np.arange(rows), Purpose.CHOICE), eligible, count)
    assert not (chosen & ~eligible).any()
    np.testing.assert_array_equal(chosen.sum(axis=1), count)


def test_all_subsets_are_equally_likely():
    rows = 30_000
    eligible = np.tile([True, True, False, True, True, True], (rows, 1))
    chosen = rng.choose(rng.keys(5, np.arange(rows), Purpose.CHOICE), eligible, np.full(rows, 2))
    codes = chosen[:, [0, 1, 3, 4, 5]] @ (1 << np.arange(5))
    subsets = [(1 << a) + (1 << b) for a, b in itertools.combinations(range(5), 2)]
    counts = np.bincount(codes, minlength=32)[subsets]
    assert counts.sum() == rows
    assert abs(chi_square_z(counts, rows / 10)) < 4
