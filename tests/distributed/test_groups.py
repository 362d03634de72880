"""The groups of every axis on real ranks."""

from dataclasses import FrozenInstanceError, fields

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection

from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import build_groups, release_parallel_state
from tests.ranks.times import LONG

AXES_OF = {
    "world": ("tensor", "context", "data", "pipeline"),
    "tensor": ("tensor",),
    "context": ("context",),
    "data": ("data",),
    "pipeline": ("pipeline",),
    "model": ("tensor", "pipeline"),
    "data_context": ("data", "context"),
}
GRIDS = [
    Grid(),
    Grid(data=2),
    Grid(tensor=2),
    Grid(context=2),
    Grid(pipeline=4),
    Grid(tensor=2, pipeline=2),
    Grid(data=2, tensor=2),
    Grid(data=2, pipeline=2),
    Grid(tensor=2, context=2),
    Grid(data=2, context=2),
]


def describe(world, grid):
    """Members of each group by name, and what a sum over each gives."""
    groups = build_groups(grid, world.device, timeout=LONG)
    assert (groups.rank, groups.grid, groups.device) == (world.rank, grid, world.device)
    assert groups.coordinates == grid.coordinates(world.rank)
    members, sums = {}, {}
    for name in (*AXES_OF, "embedding", "position_embedding"):
        if (group := getattr(groups, name)) is not None:
            members[name] = tuple(dist.get_process_group_ranks(group))
            tensor = torch.tensor([2**world.rank])
            dist.all_reduce(tensor, group=group)
            sums[name] = tensor.item()
    return members, sums, (groups.is_first_stage, groups.is_last_stage)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_groups_are_those_of_the_grid(ranks, grid):
    for rank, (members, sums, ends) in enumerate(ranks.run(grid.size, describe, grid)):
        for name, axes in AXES_OF.items():
            assert members[name] == next(group for group in grid.groups(axes) if rank in group), name
        stages = members["pipeline"]
        first, last = rank == stages[0], rank == stages[-1]
        assert ends == (first, last)
        assert members.get("embedding") == (tuple(dict.fromkeys((stages[0], stages[-1]))) if first or last else None)
        assert members.get("position_embedding") == ((rank,) if first else None)
        assert sums == {name: sum(2**member for member in members[name]) for name in members}


def inspect_collection(world):
    groups = build_groups(Grid(tensor=2), world.device, timeout=LONG)
    collection = groups.collection
    same = [
        (collection.tp, groups.tensor),
        (collection.cp, groups.context),
        (collection.dp, groups.data),
        (collection.pp, groups.pipeline),
        (collection.mp, groups.model),
        (collection.dp_cp, groups.data_context),
        (collection.embd, groups.embedding),
        (collection.tp, parallel_state.get_tensor_model_parallel_group()),
    ]
    assert all(one is other for one, other in same)
    with pytest.raises(FrozenInstanceError):
        groups.rank = 5  # pyright: ignore[reportAttributeAccessIssue]
    return {field.name for field in fields(collection) if getattr(collection, field.name) is None}


def test_the_collection_for_megatron_is_complete(ranks):
    # Neither hierarchical context parallelism nor several copies of a sharded optimizer state are offered, nor Megatron's FSDP,
    # which Megatron-core 0.19 has groups for.
    not_offered = {"hcp", "inter_dist_opt", "dp_cp_ag", "expt_dp_ag"} & {
        one.name for one in fields(ProcessGroupCollection)
    }
    assert ranks.run(2, inspect_collection) == [not_offered] * 2


def chunks_of(world, virtual_pipeline):
    groups = build_groups(Grid(pipeline=2), world.device, virtual_pipeline=virtual_pipeline, timeout=LONG)
    told = parallel_state.get_virtual_pipeline_model_parallel_world_size()
    chunks = range(groups.virtual_pipeline)
    return told, [groups.is_first_chunk(chunk) for chunk in chunks], [groups.is_last_chunk(chunk) for chunk in chunks]


def test_model_chunks(ranks):
    assert ranks.run(2, chunks_of, 1) == [(None, [True], [False]), (None, [False], [True])]
    assert ranks.run(2, chunks_of, 2) == [(2, [True, False], [False, False]), (2, [False, False], [False, True])]


def build_again(world):
    sizes = []
    for grid in (Grid(tensor=2), Grid(data=2), Grid(pipeline=2)):
        groups = build_groups(grid, world.device, timeout=LONG)
        sizes.append((groups.tensor.size(), groups.data.size(), groups.pipeline.size()))
        release_parallel_state()
        assert not parallel_state.is_initialized()
        assert [name for name, value in vars(parallel_state).items() if isinstance(value, dist.ProcessGroup)] == []
    return sizes


def test_groups_can_be_built_again_after_release(ranks):
    assert ranks.run(2, build_again) == [[(2, 1, 1), (1, 2, 1), (1, 1, 2)]] * 2


def misfit(world):
    with pytest.raises(AssertionError, match="1 ranks for"):
        build_groups(Grid(tensor=2), world.device, timeout=LONG)
    with pytest.raises(AssertionError, match="only along a pipeline"):
        build_groups(Grid(), world.device, virtual_pipeline=2, timeout=LONG)
    assert not parallel_state.is_initialized()


def test_a_grid_that_does_not_fit_is_an_error(ranks):
    ranks.run(1, misfit)
