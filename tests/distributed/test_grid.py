"""Rank arithmetic, over every grid of up to 3 ranks an axis and larger ones at random."""

from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.parallel_state import RankGenerator

from dist_plm.distributed.grid import AXES, Coordinates, Grid

SMALL = [Grid(data=d, tensor=t, pipeline=p, context=c) for d, t, p, c in product((1, 2, 3), repeat=4)]
AXIS_SETS = [set(axes) for count in range(len(AXES) + 1) for axes in combinations(AXES, count)]
MEGATRON_NAMES = {"tensor": "tp", "context": "cp", "data": "dp", "pipeline": "pp"}
GRIDS = st.builds(Grid, **dict.fromkeys(AXES, st.integers(1, 7)))


def test_order_is_tensor_context_data_pipeline():
    grid = Grid(data=3, tensor=2, pipeline=2, context=5)
    places = [grid.coordinates(rank) for rank in range(grid.size)]
    assert places == sorted(places, key=lambda p: (p.pipeline, p.data, p.context, p.tensor))
    assert grid.groups("tensor")[0] == (0, 1)
    assert grid.groups("pipeline")[0] == (0, 30)


@pytest.mark.parametrize("grid", SMALL, ids=str)
def test_coordinates_and_ranks_are_inverse(grid):
    places = [grid.coordinates(rank) for rank in range(grid.size)]
    assert [grid.rank_at(**place._asdict()) for place in places] == list(range(grid.size))
    assert set(places) == {Coordinates(*place) for place in product(*map(range, grid.shape))}


@given(GRIDS, st.data())
def test_rank_is_the_documented_sum(grid, data):
    rank = data.draw(st.integers(0, grid.size - 1))
    t, c, d, p = grid.coordinates(rank)
    assert rank == t + grid.tensor * (c + grid.context * (d + grid.data * p))
    assert rank == grid.rank_at(tensor=t, context=c, data=d, pipeline=p)


@pytest.mark.parametrize("grid", SMALL, ids=str)
def test_every_rank_is_in_one_group_of_each_set_of_axes(grid):
    for axes in AXIS_SETS:
        groups = grid.groups(axes)
        assert sorted(rank for group in groups for rank in group) == list(range(grid.size))
        for group in groups:
            places = [grid.coordinates(rank) for rank in group]
            assert list(group) == sorted(group)
            for axis in AXES:
                along = {getattr(place, axis) for place in places}
                assert along == (set(range(getattr(grid, axis))) if axis in axes else {getattr(places[0], axis)})


@pytest.mark.parametrize("grid", SMALL, ids=str)
def test_groups_are_those_of_megatron(grid):
    sizes = {name: getattr(grid, axis) for axis, name in MEGATRON_NAMES.items()}
    generator = RankGenerator(**sizes, ep=1, order="tp-cp-ep-dp-pp")
    for axes in AXIS_SETS[1:]:
        token = "-".join(MEGATRON_NAMES[axis] for axis in axes)
        assert grid.groups(axes) == [tuple(ranks) for ranks in generator.get_ranks(token)]


def test_one_axis_may_be_named_by_itself():
    grid = Grid(data=2, tensor=2)
    assert grid.groups("data") == grid.groups(["data"]) == [(0, 2), (1, 3)]
    assert grid.groups(()) == [(0,), (1,), (2,), (3,)]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Grid(data=0),
        lambda: Grid(tensor=2).coordinates(2),
        lambda: Grid(tensor=2).coordinates(-1),
        lambda: Grid(tensor=2).rank_at(tensor=2),
        lambda: Grid(tensor=2).rank_at(data=1),
        lambda: Grid().groups("expert"),
    ],
)
def test_what_is_not_of_the_grid_is_an_error(wrong):
    with pytest.raises(AssertionError):
        wrong()
