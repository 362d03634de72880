"""Who is slower than its peers, from the seconds of each rank."""

from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.distributed.grid import Grid
from dist_plm.train.observing.stragglers import Stragglers, own_seconds, peers_of, ratios


def test_peers_are_those_of_a_stage():
    assert peers_of(Grid(data=2, tensor=2, pipeline=2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert peers_of(Grid(pipeline=2)) == [[0], [1]]


def test_stages_may_differ():
    assert ratios([1, 1, 3, 3.9], [[0, 1], [2, 3]]) == pytest.approx([1, 1, 3 / 3.9, 1.3])
    assert ratios([1, 3], [[0], [1]]) == [1, 1]


def test_one_of_many():
    own = [1.0, 1.05, 1.3, 0.95, 1.0]
    assert ratios(own, [[0, 1, 2, 3, 4]])[2] == pytest.approx(1.3)


SECONDS = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.30000000000000004]) | st.floats(0, 1e9), min_size=1, max_size=12)


@given(st.lists(SECONDS, min_size=1, max_size=3), st.randoms())
def test_the_others_are_all_peers_but_oneself(stages, draw):
    """To the bit, also where ranks are equally fast."""
    own = [seconds for stage in stages for seconds in stage]
    ranks = list(range(len(own)))
    draw.shuffle(ranks)
    peers = [[ranks.pop() for _ in stage] for stage in stages]
    expected = [1.0] * len(own)
    for stage in peers:
        for rank in stage:
            others = [own[other] for other in stage if other != rank]
            if others and median(others) > 0:
                expected[rank] = own[rank] / median(others)
    assert ratios(own, peers) == expected


class Counted(float):
    """Seconds that count how often they are compared."""

    compared = 0

    def __lt__(self, other):
        Counted.compared += 1
        return float(self) < float(other)


def test_many_ranks_are_compared_about_as_often_as_sorting_takes():
    own = [Counted(1 + (37 * rank % 1000) / 1000) for rank in range(1000)]
    ratios(own, [list(range(1000))])
    assert Counted.compared < 20_000


def test_slow_is_who_is_so_time_after_time():
    watch = Stragglers([[0, 1, 2]], share=0.2, times=3)
    assert [watch.note([1, 1.3, 1]) for _ in range(2)] == [{}, {}]
    assert watch.note([1, 1.1, 1]) == {}  # once as fast as the others: counted anew
    assert [watch.note([1, 1.3, 1]) for _ in range(2)] == [{}, {}]
    assert watch.note([1, 1.3, 1]) == {1: 1.3}
    assert Stragglers([[0, 1]], share=0.0, times=1).note([1, 9]) == {}


def test_a_disturbed_step_and_waiting_do_not_count():
    steps = [{"data": 0.1, "forward": 1.0, "communication": 7.0}] * 3 + [
        {"data": 9.0, "forward": 1.0, "communication": 0}
    ]
    assert own_seconds(steps) == pytest.approx(1.1)
