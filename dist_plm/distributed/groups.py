"""The process groups of a rank. The one owner of Megatron-core's `parallel_state`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import random as megatron_random

from dist_plm.distributed.device import Device
from dist_plm.distributed.grid import Coordinates, Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The groups this rank belongs to, and where it stands in each.

    `model` spans tensor and pipeline, `data_context` data and context. `embedding` joins first and last stage, where a
    tied embedding is, and is None on stages between; `position_embedding` is the first stage alone, None on the others.
    `collection` holds the same groups for Megatron-core's modules, as their `pg_collection`.
    """

    grid: Grid
    device: Device
    rank: int
    coordinates: Coordinates
    virtual_pipeline: int
    world: dist.ProcessGroup
    tensor: dist.ProcessGroup
    context: dist.ProcessGroup
    data: dist.ProcessGroup
    pipeline: dist.ProcessGroup
    model: dist.ProcessGroup
    data_context: dist.ProcessGroup
    embedding: dist.ProcessGroup | None
    position_embedding: dist.ProcessGroup | None
    collection: ProcessGroupCollection

    @property
    def is_first_stage(self) -> bool:
        return self.coordinates.pipeline == 0

    @property
    def is_last_stage(self) -> bool:
        return self.coordinates.pipeline == self.grid.pipeline - 1

    @property
    def is_first_of_model(self) -> bool:
        """Whether this rank is the first of those that share one model: what all of them know, it alone tells."""
        place = self.coordinates
        return place.tensor == place.context == place.pipeline == 0

    def is_first_chunk(self, chunk: int) -> bool:
        """Whether this rank's model chunk `chunk`, of `virtual_pipeline`, takes the input of the whole model."""
        return self.is_first_stage and chunk == 0

    def is_last_chunk(self, chunk: int) -> bool:
        """Whether this rank's model chunk `chunk`, of `virtual_pipeline`, gives the output of the whole model."""
        return self.is_last_stage and chunk == self.virtual_pipeline - 1


def build_groups(grid: Grid, device: Device, *, timeout: timedelta, virtual_pipeline: int = 1) -> Groups:
    """Make the groups of every axis. Collective: each rank of the default process group calls it, once.

    Args:
        timeout: of a collective in any of the groups.
        virtual_pipeline: model chunks a rank holds; above 1 the pipeline schedule interleaves them.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    assert world_size == grid.size, f"{world_size} ranks for {grid} of {grid.size}"
    assert virtual_pipeline == 1 or grid.pipeline > 1, "model chunks are interleaved only along a pipeline"
    with _equal_groups_made_once() if device.backend == "gloo" else nullcontext():
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=grid.tensor,
            pipeline_model_parallel_size=grid.pipeline,
            virtual_pipeline_model_parallel_size=virtual_pipeline if virtual_pipeline > 1 else None,
            context_parallel_size=grid.context,
            distributed_timeout_minutes=timeout.total_seconds() / 60,  # pyright: ignore[reportArgumentType]
            order="tp-cp-ep-dp-pp",
            # Only its own checkpoint formats gather over these.
            create_gloo_process_groups=False,
        )
    collection = ProcessGroupCollection.use_mpu_process_groups()
    world = dist.group.WORLD
    assert world is not None
    coordinates = grid.coordinates(rank)
    seen = (collection.tp.rank(), collection.cp.rank(), collection.dp.rank(), collection.pp.rank())
    assert seen == coordinates, f"Megatron-core places rank {rank} at {seen}, the grid at {coordinates}"
    return Groups(
        grid=grid,
        device=device,
        rank=rank,
        coordinates=coordinates,
        virtual_pipeline=virtual_pipeline,
        world=world,
        tensor=collection.tp,
        context=collection.cp,
        data=collection.dp,
        pipeline=collection.pp,
        model=collection.mp,
        data_context=collection.dp_cp,
        embedding=collection.embd,
        position_embedding=collection.pos_embd,
        collection=collection,
    )


def alone() -> Groups:
    """Builds the groups of one process that talks to none, for what only looks at its place in the grid. There need be
    no process group."""
    own, grid = dist.ProcessGroup(0, 1), Grid()  # pyright: ignore[reportCallIssue]
    groups = dict.fromkeys(
        ("world", "tensor", "context", "data", "pipeline", "model", "data_context", "embedding", "position_embedding"),
        own,
    )
    return Groups(
        grid=grid,
        device=Device(kind="cpu", torch_device=torch.device("cpu"), backend="gloo"),
        rank=0,
        coordinates=grid.coordinates(0),
        virtual_pipeline=1,
        collection=ProcessGroupCollection(),
        **groups,
    )


@contextmanager
def _equal_groups_made_once() -> Iterator[None]:
    """Lets Megatron-core share one group between all axes that join the same ranks, as most do on a small grid.

    It asks for some thirty groups a rank, and every gloo group keeps a thread that polls a hundred times a second: on a
    CPU those threads take the time of the work. NCCL groups stay apart, so that their kernels can overlap.
    """
    world = dist.group.WORLD
    made: dict[tuple[int, ...], object] = {tuple(range(dist.get_world_size())): world}
    create_group = parallel_state.create_group

    def create_once(ranks: Sequence[int], **options: Any) -> object:
        members = tuple(ranks)
        if members not in made:
            made[members] = create_group(ranks, **options)
        return made[members]

    parallel_state.create_group = create_once
    try:
        yield
    finally:
        parallel_state.create_group = create_group


def release_parallel_state() -> None:
    """Forget the groups and random streams that Megatron-core holds, so that others can be built in this process."""
    parallel_state.destroy_model_parallel()
    # Forgotten there; a process group that is held keeps its thread and its connections.
    parallel_state._INTRA_PARTIAL_DATA_PARALLEL_GROUP_WITH_CP = None
    megatron_random.initialize_rng_tracker(force_reset=True)
