"""Keys, and the random streams of each axis."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.parallel.grid import Coordinates, Grid
from dist_plm.parallel.groups import random_tracker
from dist_plm.parallel.random import RandomStreams, key

PARTS = st.lists(st.integers() | st.text(max_size=8), max_size=5).map(tuple)
SPLIT = ("model-parallel-rng", "expert-parallel-rng")
NAMED = ("data-parallel-rng", *SPLIT)


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


def draw(world, coordinates, seed):
    """Four numbers from each stream of the rank at `coordinates`. No groups are needed: streams know coordinates alone."""
    RandomStreams(seed, coordinates).start()
    drawn = {"default": tuple(torch.rand(4).tolist())}
    for name in NAMED:
        with random_tracker().fork(name):
            drawn[name] = tuple(torch.rand(4).tolist())
    return drawn


def draw_everywhere(world, grid, seed):
    return [draw(world, grid.coordinates(rank), seed) for rank in range(grid.size)]


def test_streams_are_equal_on_tensor_ranks_or_on_none(ranks):
    grid = Grid(data=2, tensor=2, pipeline=2, context=2)
    [drawn] = ranks.run(1, draw_everywhere, grid, 5)
    for stream in ("default", "data-parallel-rng"):
        for group in grid.groups("tensor"):
            assert len({drawn[rank][stream] for rank in group}) == 1
        assert len({drawn[rank][stream] for rank in range(grid.size)}) == grid.size // grid.tensor
    for stream in SPLIT:
        assert len({drawn[rank][stream] for rank in range(grid.size)}) == grid.size
    assert len({numbers for streams in drawn for numbers in streams.values()}) == 2 * 8 + 2 * 16


def test_streams_follow_the_seed_and_nothing_else(ranks):
    place = Coordinates(1, 0, 2, 0)
    first, second = ranks.run(2, draw, place, 5)
    assert first == second
    other = ranks.run(1, draw, place, 6)[0]
    assert all(first[stream] != other[stream] for stream in first)


def fork_between(world):
    RandomStreams(1, Coordinates(0, 0, 0, 0)).start()
    together = torch.rand(4)
    RandomStreams(1, Coordinates(0, 0, 0, 0)).start()
    first = torch.rand(2)
    with random_tracker().fork():
        in_fork = torch.rand(2)
    with random_tracker().fork():
        in_next_fork = torch.rand(2)
    assert torch.equal(torch.cat([first, torch.rand(2)]), together)
    assert not torch.equal(in_fork, in_next_fork)


def test_a_named_stream_does_not_disturb_the_default(ranks):
    ranks.run(1, fork_between)


def restore(world):
    streams = RandomStreams(1, Coordinates(0, 0, 0, 0))
    streams.start()
    with random_tracker().fork():
        torch.rand(3)
    torch.rand(3)
    state = streams.state()

    def continuation():
        with random_tracker().fork():
            named = torch.rand(3)
        return torch.cat([named, torch.rand(3), torch.randperm(9)])

    expected = continuation()
    RandomStreams(2, Coordinates(0, 0, 0, 0)).start()
    for _ in range(2):
        streams.load_state(state)
        assert torch.equal(continuation(), expected)
    assert set(state["streams"]) == set(NAMED)


def test_streams_continue_from_a_saved_state(ranks):
    ranks.run(1, restore)
