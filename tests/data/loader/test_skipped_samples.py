import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.data.loader.batch_plan import BatchPlan
from dist_plm.data.loader.skipped_samples import SkippedSamples

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair))), max_size=6)


def remaining(ranges, count):
    """The numbers of the first samples that are in no range, one by one."""
    numbers = (n for n in range(10_000) if not any(first <= n < stop for first, stop in ranges))
    return [next(numbers) for _ in range(count)]


@given(RANGES)
def test_places_count_what_remains(ranges):
    skipped = SkippedSamples.of(ranges)
    assert skipped.numbers(np.arange(120)).tolist() == remaining(ranges, 120)


@given(RANGES, st.integers(0, 60), st.integers(0, 60))
def test_runs_are_the_same_numbers(ranges, first, count):
    found = [n for start, stop in SkippedSamples.of(ranges).runs(first, first + count) for n in range(start, stop)]
    assert found == remaining(ranges, first + count)[first:]


@given(RANGES, st.integers(0, 20), st.integers(0, 20))
def test_what_is_skipped_later_changes_nothing_before(ranges, first, count):
    skipped = SkippedSamples.of(ranges)
    window = skipped.runs(first, first + count)
    more = SkippedSamples.of([*skipped.ranges, *window])
    places = np.arange(100)
    assert (more.numbers(places[:first]) == skipped.numbers(places[:first])).all()
    assert (more.numbers(places[first:]) == skipped.numbers(places[first:] + count)).all()


def test_ranks_cut_up_what_remains():
    grid = {"global_batch": 8, "micro_batch": 2, "skipped": SkippedSamples.of([(8, 16), (19, 20)])}
    one = np.concatenate(list(BatchPlan(0, 4, 0, data_size=1, **grid)))
    assert one.tolist() == remaining([(8, 16), (19, 20)], 32)
    two = [BatchPlan(0, 4, rank, data_size=2, **grid) for rank in (0, 1)]
    by_step = [np.concatenate([*two[0][2 * s : 2 * s + 2], *two[1][2 * s : 2 * s + 2]]) for s in range(4)]
    assert np.concatenate(by_step).tolist() == one.tolist()
