import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.sampling.blend_schedule import MAX_PERIOD, Period, Schedule, parts_of

parts = st.lists(st.integers(1, 60), min_size=1, max_size=9)


@given(parts=parts)
def test_proportions_are_exact_to_less_than_one_sample_at_every_prefix(parts):
    length = sum(parts)
    sources, numbers = Schedule(parts, [None] * len(parts)).locate(np.arange(3 * length))
    for i, part in enumerate(parts):
        counts = np.cumsum(sources == i)
        distance = np.abs(counts * length - part * np.arange(1, 3 * length + 1))
        assert distance.max() < length
        assert numbers[sources == i].tolist() == list(range(3 * part))


@given(data=st.data(), parts=parts)
def test_sources_that_end_leave_exact_proportions_to_the_others(data, parts):
    caps = [data.draw(st.none() | st.integers(1, 90)) for _ in parts]
    schedule = Schedule(parts, caps)
    total = 300 if schedule.limit is None else schedule.limit
    sources, numbers = schedule.locate(np.arange(total))
    for i, cap in enumerate(caps):
        count = int((sources == i).sum())
        assert cap is None or count <= cap
        assert numbers[sources == i].tolist() == list(range(count))
        if schedule.limit is not None:
            assert count == cap
    start = 0
    left = dict(enumerate(parts))
    while start < total:
        ends = [n for i in left if (n := nth(sources, i, caps[i])) is not None]
        stop = min(ends, default=total)
        assert set(sources[start:stop].tolist()) <= set(left)
        steps, length = np.arange(1, stop - start + 1), sum(left.values())
        for i, part in left.items():
            assert np.abs(np.cumsum(sources[start:stop] == i) * length - part * steps).max() < length
        start, left = stop, {i: part for i, part in left.items() if nth(sources[:stop], i, caps[i]) is None}


def nth(sources, source, count):
    """Samples until `source` has had `count`, if it ever has."""
    places = np.flatnonzero(sources == source)
    return None if count is None or len(places) < count else int(places[count - 1]) + 1


@given(parts=parts, data=st.data())
def test_any_sample_is_found_without_those_before_it(parts, data):
    caps = [data.draw(st.none() | st.integers(1, 50)) for _ in parts]
    schedule = Schedule(parts, caps)
    total = schedule.limit or 300
    whole = np.array(schedule.locate(np.arange(total)))
    chosen = np.array(data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=20)))
    assert np.array_equal(np.array(Schedule(parts, caps).locate(chosen)), whole[:, chosen])
    assert np.array_equal(np.array(pickle.loads(pickle.dumps(schedule)).locate(chosen)), whole[:, chosen])


def test_far_away_samples_cost_nothing():
    schedule = Schedule([7, 2, 1], [10**15, None, None])
    sources, numbers = schedule.locate(np.array([10**12, 10**16]))
    assert numbers[0] in {10**12 * share // 10 + more for share in (7, 2, 1) for more in (0, 1)}
    assert sources[1] in {1, 2}
    with pytest.raises(AssertionError, match="past 10"):
        Schedule([1, 1], [4, 6]).locate(np.array([10]))


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ([0.7, 0.3], (7, 3)),
        ([2, 4, 6], (1, 2, 3)),
        ([1.0], (1,)),
        ([0.25, 1], (1, 4)),
        ([1e-9, 1], (1, MAX_PERIOD)),
        ([1e20, 1e20], (1, 1)),
    ],
)
def test_weights_become_whole_parts(weights, parts):
    assert parts_of(weights) == parts


@given(weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20))
def test_parts_are_close_to_their_weights(weights):
    parts = parts_of(weights)
    assert min(parts) >= 1
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part / sum(parts) - weight / sum(weights)) <= 2 * len(parts) / MAX_PERIOD


def test_the_longest_period_of_many_sources():
    period = Period.of(parts_of([1.1**i for i in range(100)]))
    assert abs(len(period) - MAX_PERIOD) <= 100
