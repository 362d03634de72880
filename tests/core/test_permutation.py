import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.core.randomness.permutation import (
    generator,
    grouped,
    mix,
    mix_many,
    permute,
    permute_many,
    window_of,
    windows_of,
)

seeds = st.integers(min_value=0, max_value=2**63 - 1)
lengths = st.integers(min_value=1, max_value=2**62)


@given(length=st.integers(min_value=1, max_value=2000), key=seeds)
def test_permutation_is_a_bijection(length, key):
    assert sorted(permute_many(np.arange(length), length, key)) == list(range(length))


@given(length=lengths, key=seeds, data=st.data())
def test_permutation_stays_in_range_and_is_injective_on_long_domains(length, key, data):
    indices = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=20, unique=True))
    images = [permute(i, length, key) for i in indices]
    assert all(0 <= image < length for image in images)
    assert len(set(images)) == len(indices)
    assert permute_many(indices, length, key).tolist() == images


@pytest.mark.parametrize("length", [1, 2, 3, 2**31 - 1, 2**31, 2**32 + 1, 2**53 + 1, 2**63 - 1])
def test_scalar_and_vector_agree_at_awkward_lengths(length):
    indices = sorted({0, length // 2, length - 1})
    assert permute_many(indices, length, 7).tolist() == [permute(i, length, 7) for i in indices]


@pytest.mark.parametrize("length", [2, 3, 4])
def test_every_permutation_of_a_short_domain_is_equally_likely(length):
    orders = math.factorial(length)
    draws = 100 * orders
    counts = Counter(tuple(permute(i, length, key) for i in range(length)) for key in range(draws))
    chi_square = sum((counts[p] - 100) ** 2 / 100 for p in itertools.permutations(range(length)))
    freedom = orders - 1
    assert (chi_square - freedom) / math.sqrt(2 * freedom) < 4


def test_images_of_one_index_are_uniform_over_keys():
    length, cells = 1000, 20
    images = np.array([permute(123, length, key) for key in range(4000)])
    counts = np.bincount(images * cells // length, minlength=cells)
    chi_square = float(((counts - 200) ** 2 / 200).sum())
    assert (chi_square - (cells - 1)) / math.sqrt(2 * (cells - 1)) < 4


def test_neighbours_are_scattered():
    length = 100_000
    order = permute_many(np.arange(length), length, 3)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(length), order)[0, 1]) < 0.02


@given(num_windows=st.integers(1, 200), seed=seeds)
def test_each_epoch_reads_every_window_once(num_windows, seed):
    windows = windows_of(np.arange(3 * num_windows), num_windows, seed).reshape(3, num_windows)
    assert all(sorted(epoch) == list(range(num_windows)) for epoch in windows.tolist())


@given(num_windows=st.integers(1, 2**40), seed=seeds, samples=st.lists(st.integers(0, 2**62), max_size=8))
def test_windows_of_equals_window_of(num_windows, seed, samples):
    expected = [window_of(sample, num_windows, seed) for sample in samples]
    assert windows_of(np.array(samples, dtype=np.int64), num_windows, seed).tolist() == expected


def test_epochs_and_seeds_differ():
    def order(seed, epoch):
        return windows_of(np.arange(epoch * 100, epoch * 100 + 100), 100, seed).tolist()

    orders = [order(seed, epoch) for seed in range(5) for epoch in range(5)]
    assert len({tuple(o) for o in orders}) == 25


def test_the_order_is_frozen():
    """These numbers are part of the format: changing them silently reorders the data of every run that resumes."""
    assert mix(1, 2, 3) == 1479724811760891200
    assert [window_of(i, 10, 1234) for i in range(10)] == [2, 1, 3, 9, 0, 5, 7, 6, 8, 4]
    assert [window_of(i, 10**12, 1234) for i in range(3)] == [28420078312, 751202306760, 959030805548]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4))
def test_mix_many_equals_mix(values):
    assert int(mix_many(*values)) == mix(*values)
    column = [np.array([value, value], dtype=np.int64) for value in values]
    assert all(int(x) == mix(*values) for x in mix_many(*column).reshape(-1))


def test_mix_many_broadcasts():
    hashed = mix_many(5, np.arange(3)[:, None], np.arange(4))
    assert hashed.shape == (3, 4)
    assert int(hashed[2, 1]) == mix(5, 2, 1)


def test_mix_depends_on_order_count_and_every_bit():
    assert len({mix(), mix(0), mix(0, 0), mix(1, 2), mix(2, 1), mix(0, 1), mix(1)}) == 7
    flips = [(mix(99, 7) ^ mix(99, 7 ^ (1 << bit))).bit_count() for bit in range(64)]
    assert 24 < sum(flips) / 64 < 40
    assert min(flips) > 10


def test_generators_of_samples_and_purposes_are_independent_and_repeatable():
    first = generator(1, 2).random(4)
    assert first.tolist() == generator(1, 2).random(4).tolist()
    others = [generator(1, 3), generator(2, 2), generator(1, 2, 0)]
    assert all(not np.isin(first, other.random(4)).any() for other in others)


@given(
    num_blocks=st.integers(1, 20),
    rows=st.integers(1, 9),
    group=st.integers(1, 8),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 5),
)
def test_a_grouped_epoch_reads_every_row_once_and_few_blocks_at_a_time(num_blocks, rows, group, seed, epoch):
    size = num_blocks * rows
    blocks, numbers = grouped(np.arange(epoch * size, (epoch + 1) * size), num_blocks, rows, group, seed)
    assert sorted(zip(blocks.tolist(), numbers.tolist(), strict=True)) == [
        (block, row) for block in range(num_blocks) for row in range(rows)
    ]
    for start in range(0, size, group * rows):
        assert len(set(blocks[start : start + group * rows].tolist())) <= group
    single = [grouped(np.array([n]), num_blocks, rows, group, seed) for n in range(epoch * size, (epoch + 1) * size)]
    assert [int(block[0]) for block, _ in single] == blocks.tolist()
