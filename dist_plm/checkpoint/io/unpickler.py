"""Reads pickles of checkpoints without running what they say: only classes that are named here come to life.

A pickle may name any function and have it called. `.metadata` of torch.distributed.checkpoint is one, and so are files of
torch.save that hold more than tensors.
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint import filesystem, metadata, planner
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from dist_plm.core.errors import CheckpointError, described, reason_of


class Inert:
    """Stands for an object of a class that is not wanted: it keeps what it was made of and does nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.arguments = arguments

    def __new__(cls, *arguments: Any, **options: Any) -> "Inert":
        made = super().__new__(cls)
        made.arguments = arguments
        return made

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


_REAL: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    **{
        (module.__name__, name): getattr(module, name)
        for module, names in {
            metadata: (
                "Metadata",
                "TensorStorageMetadata",
                "BytesStorageMetadata",
                "ChunkStorageMetadata",
                "TensorProperties",
                "MetadataIndex",
                "StorageMeta",
                "_MEM_FORMAT_ENCODING",
            ),
            filesystem: ("_StorageInfo",),
        }.items()
        for name in names
    },
    (planner.__name__, "WriteItemType"): planner.WriteItemType,
}
#: Megatron-core keeps its writers' plans in there, and the path that was written to.
_UNWANTED_IN_METADATA = re.compile(
    r"torch\.distributed\.checkpoint\.planner\.\w+|megatron\.core\.dist_checkpointing\.[\w.]+|pathlib\.\w*Path"
)
#: What Megatron-LM's and DeepSpeed's own files hold beside tensors: command lines, settings, random states.
_UNWANTED_IN_FILES = re.compile(
    r"(megatron|deepspeed|numpy|pathlib|signal|argparse|enum|torch\.distributed)\.[\w.]+|types\.SimpleNamespace"
)


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _REAL:
            return _REAL[module, name]
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if _UNWANTED_IN_METADATA.fullmatch(f"{module}.{name}"):
            return Inert
        raise pickle.UnpicklingError(f"it names {module}.{name}, which has no place in a checkpoint")


def load_metadata(stream: IO[bytes]) -> metadata.Metadata:
    """Reads what `.metadata` holds.

    Raises:
        pickle.UnpicklingError: it is damaged, or names what does not belong there.
    """
    try:
        found = _MetadataUnpickler(stream).load()
    except (EOFError, OSError, pickle.UnpicklingError):
        raise
    except Exception as error:  # a damaged pickle runs into whatever it happens to say
        raise pickle.UnpicklingError(described(error)) from None
    if not isinstance(found, metadata.Metadata):
        raise pickle.UnpicklingError(f"it holds a {type(found).__name__}")
    for name, tensor in _attribute(found, "state_dict_metadata", dict).items():
        if isinstance(tensor, metadata.TensorStorageMetadata):
            _check_tensor(name, tensor)
    for index, info in (_attribute(found, "storage_data", dict | None) or {}).items():
        if not isinstance(index, metadata.MetadataIndex) or not isinstance(info, filesystem._StorageInfo):
            raise pickle.UnpicklingError("it places what is no part of a tensor")
        _attribute(index, "fqn", str)
        _attribute(info, "relative_path", str)
        _attribute(info, "offset", int)
        _attribute(info, "length", int)
    return found


def _check_tensor(name: str, tensor: metadata.TensorStorageMetadata) -> None:
    size = _attribute(tensor, "size", torch.Size)
    for chunk in _attribute(tensor, "chunks", list):
        if not isinstance(chunk, metadata.ChunkStorageMetadata):
            raise pickle.UnpicklingError(f"{name} holds a {type(chunk).__name__} among its parts")
        parts = [_attribute(chunk, "offsets", torch.Size), _attribute(chunk, "sizes", torch.Size)]
        if any(len(part) != len(size) for part in parts):
            raise pickle.UnpicklingError(f"parts of {name} have other dimensions than it has")


def _attribute(thing: Any, name: str, kind: Any) -> Any:
    """Looks for an attribute where a damaged pickle may have left none, or one of another kind."""
    value = getattr(thing, name, Inert)
    if not isinstance(value, kind):
        raise pickle.UnpicklingError(f"it holds a {type(thing).__name__} whose {name} is none")
    return value


@contextmanager
def _nothing_allowed() -> Iterator[None]:
    """Libraries allow classes of theirs for the whole process when they are imported."""
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        yield
    finally:
        torch.serialization.add_safe_globals(allowed)


def load_file(path: Path) -> Any:
    """Reads what torch.save wrote to `path`, with tensors mapped from the file. Of the classes that Megatron-LM and DeepSpeed
    save beside tensors an `Inert` takes the place.

    Raises:
        CheckpointError: it is damaged, or names what has no place in a checkpoint.
    """
    try:
        with _nothing_allowed():
            names = get_unsafe_globals_in_checkpoint(path)
            if strange := sorted(name for name in names if not _UNWANTED_IN_FILES.fullmatch(name)):
                raise CheckpointError(
                    f"{path} names {', '.join(strange)}, which this program does not load from a file of others"
                )
            with safe_globals([(Inert, name) for name in names]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except Exception as error:  # as above
        raise CheckpointError(f"{path} cannot be read: {reason_of(error, path)}") from None
