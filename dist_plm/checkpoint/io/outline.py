"""Tells which tensors a checkpoint holds and where their values lie, without PyTorch: importing that takes a second."""

import math
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple

from dist_plm.checkpoint.io.metadata_pickle import Inert, MetadataClasses, load

_ITEM_BYTES = 4  # fp32
#: Within so many bytes the values begin.
HEAD_BYTES = 4096
#: Of the archive's entry that holds them uncompressed: lengths of name and extra field, and the name (APPNOTE.TXT, 4.3.7).
_ENTRY = re.compile(rb"PK\x03\x04.{4}\x00\x00.{16}(..)(..)[^/]{1,64}/data/0", re.DOTALL)
_ENTRY_BYTES = 30


class Box(NamedTuple):
    """A box of a logical tensor: `length` bytes at `offset` of a file hold what torch.save wrote of it."""

    file: str
    offset: int
    length: int
    num_values: int

    def values(self, stream: IO[bytes]) -> bytes:
        """Reads its fp32 values out of its file.

        Raises:
            OSError: they are not where they should be.
        """
        stream.seek(self.offset)
        begin, num_bytes = values_at(stream.read(HEAD_BYTES)), self.num_values * _ITEM_BYTES
        if begin is None or begin + num_bytes > self.length:
            raise OSError(f"{self.file} does not hold at byte {self.offset:,} the values that it should")
        stream.seek(self.offset + begin)
        values = stream.read(num_bytes)
        if len(values) != num_bytes:
            raise OSError(f"{self.file} ends in the middle of a tensor")
        return values


class Outline(NamedTuple):
    """The shapes of a checkpoint's logical tensors by name, and the boxes that hold them."""

    shapes: Mapping[str, tuple[int, ...]]
    boxes: Mapping[str, Sequence[Box]]


class _Size(tuple[int, ...]):
    def __new__(cls, sizes: Any = ()) -> "_Size":
        made = super().__new__(cls, sizes)
        if not all(type(size) is int and size >= 0 for size in made):
            raise pickle.UnpicklingError("it holds a size that is none")
        return made


#: Errors tell of classes by their names.
_MADE: list[Any] = [type(name, (Inert,), {}) for name in MetadataClasses._fields[:-1]]
_METADATA, _TENSOR, _CHUNK, _INDEX, _INFO = _MADE
_CLASSES = MetadataClasses(_METADATA, _TENSOR, _CHUNK, _INDEX, _INFO, _Size)
_PYTORCH = "torch.distributed.checkpoint"
#: PyTorch's modules and names -> what stands for them here.
_STAND_INS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): _Size,
    ("torch.serialization", "_get_layout"): Inert,
    (f"{_PYTORCH}.metadata", "Metadata"): _METADATA,
    (f"{_PYTORCH}.metadata", "TensorStorageMetadata"): _TENSOR,
    (f"{_PYTORCH}.metadata", "BytesStorageMetadata"): Inert,
    (f"{_PYTORCH}.metadata", "ChunkStorageMetadata"): _CHUNK,
    (f"{_PYTORCH}.metadata", "TensorProperties"): Inert,
    (f"{_PYTORCH}.metadata", "MetadataIndex"): _INDEX,
    (f"{_PYTORCH}.metadata", "StorageMeta"): Inert,
    (f"{_PYTORCH}.metadata", "_MEM_FORMAT_ENCODING"): Inert,
    (f"{_PYTORCH}.filesystem", "_StorageInfo"): _INFO,
    (f"{_PYTORCH}.planner", "WriteItemType"): Inert,
}
_DTYPE = re.compile(r"q?u?int\d+|b?float\d+\w*|bool")


def _find(module: str, name: str) -> Any:
    return Inert if module == "torch" and _DTYPE.fullmatch(name) else _STAND_INS.get((module, name))


def values_at(head: bytes) -> int | None:
    """Where the values begin in what torch.save wrote of a tensor, from its first HEAD_BYTES; None where it did not."""
    found = _ENTRY.search(head)
    if found is None:
        return None
    name, extra = struct.unpack("<HH", found[1] + found[2])
    return found.start() + _ENTRY_BYTES + name + extra


def read_outline(stream: IO[bytes]) -> Outline:
    """Reads the `.metadata` of a checkpoint.

    Raises:
        pickle.UnpicklingError: it is damaged, or names what does not belong there.
    """
    metadata = load(stream, _CLASSES, _find)
    tensors = {name: tensor for name, tensor in metadata.state_dict_metadata.items() if isinstance(tensor, _TENSOR)}
    places = {
        (index.fqn, getattr(index, "offset", None)): info for index, info in (metadata.storage_data or {}).items()
    }
    return Outline(
        {name: tuple(tensor.size) for name, tensor in tensors.items()},
        {name: [_box(name, chunk, places) for chunk in tensor.chunks] for name, tensor in tensors.items()},
    )


def _box(name: str, chunk: Any, places: Mapping[tuple[str, Any], Any]) -> Box:
    info = places.get((name, chunk.offsets))
    if info is None:
        raise pickle.UnpicklingError(f"it does not tell where {name} lies")
    return Box(info.relative_path, info.offset, info.length, math.prod(chunk.sizes))
