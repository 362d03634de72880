"""Writes a checkpoint in one process, a box of one tensor at a time: what was made by other programs is too large for memory.

torch.distributed.checkpoint's own writing keeps every tensor until its file is closed; the files are the same.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.storage import WriteResult

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.finite import is_finite
from dist_plm.checkpoint.fragments import Fragment, cut, whole
from dist_plm.checkpoint.io.hashing import HashedFiles
from dist_plm.checkpoint.planner import FragmentSavePlanner
from dist_plm.checkpoint.storage import LATEST, Storage, name_of
from dist_plm.checkpoint.train_state import FileRecord, TrainState
from dist_plm.core.errors import CheckpointError
from dist_plm.models.sharding import Shard

#: A file of tensors is closed once it holds this much.
FILE_BYTES = 4 * 2**30


def write_checkpoint(
    storage: Storage,
    train_state: TrainState,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[Shard], Tensor],
    attachments: Mapping[str, bytes] | None = None,
) -> int:
    """Writes a complete checkpoint of train_state.step, which becomes the latest of `storage`. Nothing of it stays where
    anything fails.

    Args:
        shapes: of the logical tensors, by the names that a checkpoint keeps (`fragments.checkpoint_name`).
        read: the values of a box of the logical tensor shard.name, shaped like shard.size; they are kept as fp32.
        attachments: other files that the checkpoint holds.
    Returns:
        The bytes written.
    """
    directory = storage.begin(name_of(train_state.step))
    try:
        records = _write_tensors(storage.writer(directory), shapes, read)
        for file, data in (attachments or {}).items():
            storage.write(data, directory, file)
            records[file] = FileRecord(len(data), state_file.checksum(data))
        storage.write(state_file.encode(replace(train_state, files=records)), directory, state_file.NAME)
        storage.commit(name_of(train_state.step))
    except BaseException:
        storage.remove(directory)
        raise
    storage.write(f"{name_of(train_state.step)}\n".encode(), LATEST)
    return sum(record.bytes for record in records.values())


def _write_tensors(
    writer: FileSystemWriter, shapes: Mapping[str, tuple[int, ...]], read: Callable[[Shard], Tensor]
) -> dict[str, FileRecord]:
    files = HashedFiles(writer.fs)
    writer.fs = files  # pyright: ignore[reportAttributeAccessIssue]
    boxes = [box for name, shape in shapes.items() for box in cut(whole(name, shape))]
    planner = FragmentSavePlanner([_described(box) for box in boxes])
    planner.set_up_planner({}, is_coordinator=True)
    writer.set_up_storage_writer(True)
    plan = writer.prepare_local_plan(planner.create_local_plan())
    (plan,), metadata = planner.create_global_plan([plan])
    pairs = list(zip(plan.items, boxes, strict=True))
    results = [_write_file(writer, f"__0_{number}.distcp", part, read) for number, part in enumerate(_files(pairs))]
    writer.finish(metadata, results)
    return files.records


def _described(box: Shard) -> Fragment:
    """Without values: they are read when their turn comes."""
    return Fragment(box.name, box.shape, box.start, torch.empty(box.size, dtype=torch.float32, device="meta"))


def _files(pairs: list[tuple[WriteItem, Shard]]) -> Iterator[list[tuple[WriteItem, Shard]]]:
    part: list[tuple[WriteItem, Shard]] = []
    size = 0
    for item, box in pairs:
        if part and size + 4 * box.numel > FILE_BYTES:
            yield part
            part, size = [], 0
        part.append((item, box))
        size += 4 * box.numel
    yield part


def _write_file(
    writer: FileSystemWriter, name: str, part: list[tuple[WriteItem, Shard]], read: Callable[[Shard], Tensor]
) -> list[WriteResult]:
    results: list[WriteResult] = []
    with writer.fs.create_stream(writer.fs.concat_path(writer.path, name), "wb") as stream:
        for item, box in part:
            offset = stream.tell()
            # A copy where the values are a view: all of what is viewed would be saved.
            values = read(box).to(torch.float32, copy=True).contiguous()
            if not is_finite(values):
                raise CheckpointError(
                    f"{item.index.fqn} holds numbers that are not finite: the run that it is of had diverged"
                )
            torch.save(values, cast(Any, stream))
            length = stream.tell() - offset
            results.append(WriteResult(item.index, length, _StorageInfo(name, offset, length)))
        if writer.sync_files:
            stream.flush()
            os.fsync(stream.fileno())
    return results
