"""Tensors in files of torch.distributed.checkpoint, written and read without a copy on the way.

Such a file is a row of archives of torch.save, and `.metadata` tells where each begins. Its own writer copies every tensor
through torch.save; its own reader loads an archive whole and copies from it.
"""

import os
from collections.abc import Callable, Sequence
from typing import IO, Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.filesystem import (
    DEFAULT_SUFFIX,
    FileSystemReader,
    FileSystemWriter,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from dist_plm.checkpoint.io.direct_io import ALIGNMENT_BYTES, DIRECT_BYTES
from dist_plm.checkpoint.io.envelope import envelope
from dist_plm.checkpoint.io.outline import HEAD_BYTES, values_at
from dist_plm.checkpoint.io.unpickler import load_metadata

#: Writes bytes and the values of contiguous fp32 tensors one after another to a file, a path or a URL.
Put = Callable[[str, Sequence[bytes | Tensor]], None]
_ITEM_BYTES = 4  # fp32


class LocalWriter(FileSystemWriter):
    """Has `put` write the tensors."""

    put: Put

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        name = f"{plan.storage_data.prefix}0{DEFAULT_SUFFIX}"
        parts: list[bytes | Tensor] = []
        results: list[WriteResult] = []
        offset = 0
        for item in plan.items:
            values = cast(Tensor, planner.resolve_data(item))
            head, tail = envelope(tuple(values.shape))
            # From there on they are written from where they lie.
            padding = -(offset + len(head)) % ALIGNMENT_BYTES if values.nbytes >= DIRECT_BYTES else 0
            parts += [bytes(padding) + head, values, tail]
            offset += padding
            length = len(head) + values.nbytes + len(tail)
            results.append(WriteResult(item.index, length, _StorageInfo(name, offset, length)))
            offset += length
        self.put(str(self.fs.concat_path(self.path, name)), parts)
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def storage_meta(self) -> StorageMeta:
        """Leaves out the address of the checkpoint, which may hold a credential, and is none after a move."""
        return StorageMeta(save_id=self.save_id)


class UrlWriter(LocalWriter, FsspecWriter):
    """The same to an fsspec URL."""


class SafeReader(FileSystemReader):
    """Reads `.metadata` without running what it may say; PyTorch's reader does."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with self.fs.create_stream(self.fs.concat_path(self.path, ".metadata"), "rb") as stream:
            found = load_metadata(cast(IO[bytes], stream))
        found.storage_meta = StorageMeta(load_id=self.load_id)
        return found


class LocalReader(SafeReader):
    """Reads this project's own checkpoints, whose values are fp32 and contiguous: they are read straight into their place,
    and no more of them than is wanted."""

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        super().set_up_storage_reader(metadata, is_coordinator, *args, **kwargs)
        self._chunks: dict[tuple[str, torch.Size], ChunkStorageMetadata] = {
            (name, chunk.offsets): chunk
            for name, tensor in metadata.state_dict_metadata.items()
            if isinstance(tensor, TensorStorageMetadata)
            for chunk in tensor.chunks
        }

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        by_file: dict[str, list[tuple[_StorageInfo, ReadItem]]] = {}
        for item in plan.items:
            info = self.storage_data[item.storage_index]
            by_file.setdefault(info.relative_path, []).append((info, item))
        for name, items in by_file.items():
            with self.fs.create_stream(self.fs.concat_path(self.path, name), "rb") as stream:
                self._opened(cast(IO[bytes], stream))
                for info, item in sorted(items, key=lambda one: one[0].offset):
                    self._read(cast(IO[bytes], stream), info, item, planner.resolve_tensor(item))
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _opened(self, stream: IO[bytes]) -> None:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)  # reads further ahead

    def _read(self, stream: IO[bytes], info: _StorageInfo, item: ReadItem, target: Tensor) -> None:
        index = item.storage_index
        assert index.offset is not None
        sizes = self._chunks[index.fqn, index.offset].sizes
        stream.seek(info.offset)
        begin = values_at(stream.read(HEAD_BYTES))
        row_bytes = _ITEM_BYTES * sizes[1:].numel()
        if begin is None or begin + sizes[0] * row_bytes > info.length:
            raise OSError(f"{info.relative_path} does not hold {index.fqn} where it should")
        rows = torch.Size((item.lengths[0], *sizes[1:]))
        values = target if item.lengths == rows and target.is_contiguous() else torch.empty(rows)
        stream.seek(info.offset + begin + item.storage_offsets[0] * row_bytes)
        _fill(values, stream)
        if values is not target:
            for dim, (start, count) in enumerate(zip(item.storage_offsets[1:], item.lengths[1:], strict=True), 1):
                values = values.narrow(dim, start, count)
            target.copy_(values)


class UrlReader(LocalReader, FsspecReader):
    """The same of an fsspec URL."""

    def _opened(self, stream: IO[bytes]) -> None:
        """It has a cache of its own."""


def _fill(values: Tensor, stream: IO[bytes]) -> None:
    view = values.view(-1).numpy().data.cast("B")
    while view:
        count = stream.readinto(view)  # pyright: ignore[reportAttributeAccessIssue]
        if not count:
            raise OSError("the file ends in the middle of a tensor")
        view = view[count:]
