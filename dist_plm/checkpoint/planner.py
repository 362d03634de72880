"""Between fragments and torch.distributed.checkpoint: what to write as its WriteItems, what to read as its ReadItems."""

import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.storage import StorageReader

from dist_plm.checkpoint.fragments import Fragment, checkpoint_name, whole
from dist_plm.core.errors import described
from dist_plm.models.sharding import Shard, ShardSpec


class FragmentSavePlanner(DefaultSavePlanner):
    """Writes fragments that no two ranks share; that they fill each logical tensor exactly is checked by the base."""

    def __init__(self, fragments: Sequence[Fragment]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._fragments = fragments
        self._values = {_index(f.name, f.start): f.values for f in fragments}

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan([_write_item(fragment) for fragment in self._fragments])
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self._values[write_item.index]


class _BoxLoadPlanner(LoadPlanner):
    """Puts what is read into views of tensors, by the index that each ReadItem is for."""

    def __init__(self, targets: dict[MetadataIndex, Tensor]) -> None:
        self._targets = targets

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        target = self._targets[read_item.dest_index]
        for dim, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            target = target.narrow(dim, start, length)
        return target

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Nothing to do: it was read into place."""

    def set_up_planner(self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False) -> None:
        raise NotImplementedError("boxes are read one parameter at a time, not through a collective plan")

    def create_local_plan(self) -> LoadPlan:
        raise NotImplementedError("see set_up_planner")

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        raise NotImplementedError("see set_up_planner")

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        raise NotImplementedError("see set_up_planner")

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        raise NotImplementedError("a checkpoint holds tensors alone")


class TensorReader:
    """Reads boxes of a checkpoint's logical tensors; each rank by itself."""

    def __init__(self, storage: StorageReader, metadata: Metadata) -> None:
        storage.set_up_storage_reader(metadata, is_coordinator=False)
        self._storage = storage
        self.tensors = {n: m for n, m in metadata.state_dict_metadata.items() if isinstance(m, TensorStorageMetadata)}

    def read(self, shard_spec: ShardSpec, state: str) -> Tensor:
        """fp32 values of `state` shaped like shard_spec.parameter, zero where it is padding."""
        is_filled = sum(shard.numel for shard in shard_spec.shards) == shard_spec.shape.numel()
        values = (torch.empty if is_filled else torch.zeros)(shard_spec.shape, dtype=torch.float32)
        self.read_shards([(checkpoint_name(state, p.name), p, p.local(values)) for p in shard_spec.shards])
        return values

    def read_whole(self, name: str) -> Tensor:
        """One logical tensor, whole."""
        size = tuple(self.tensors[name].size)
        values = torch.zeros(size, dtype=torch.float32)
        self.read_shards([(name, whole(name, size), values)])
        return values

    def read_shards(self, wanted: Sequence[tuple[str, Shard, Tensor]]) -> None:
        """Fills each tensor with the box of the named logical tensor that its shard describes."""
        targets: dict[MetadataIndex, Tensor] = {}
        items: list[ReadItem] = []
        for name, shard, target in wanted:
            if shard.numel == 0:
                continue
            box = ChunkStorageMetadata(torch.Size(shard.start), torch.Size(shard.size))
            found = create_read_items_for_chunk_list(name, self.tensors[name], [box])
            items += found
            targets |= {item.dest_index: target for item in found}
        if items:
            self._storage.read_data(LoadPlan(items), _BoxLoadPlanner(targets)).wait()


def _index(name: str, start: Sequence[int]) -> MetadataIndex:
    return MetadataIndex(name, torch.Size(start))


def _write_item(fragment: Fragment) -> WriteItem:
    data = TensorWriteData(
        chunk=ChunkStorageMetadata(torch.Size(fragment.start), fragment.values.shape),
        properties=TensorProperties(dtype=fragment.values.dtype),
        size=torch.Size(fragment.shape),
    )
    return WriteItem(index=_index(fragment.name, fragment.start), type=WriteItemType.SHARD, tensor_data=data)


def describe_failure(error: BaseException) -> str:
    """Says why a save or a load failed, and on which ranks."""
    if isinstance(error, CheckpointException):
        return "; ".join(f"rank {rank}: {describe_failure(one)}" for rank, (one, *_) in sorted(error.failures.items()))
    return described(error)
