"""Reads pickles of checkpoints without running what they say: only classes that are named here come to life.

A pickle may name any function and have it called. `.metadata` of torch.distributed.checkpoint is one, and so are files of
torch.save that hold more than tensors.
"""

import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint import filesystem, metadata, planner
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from dist_plm.checkpoint.io.metadata_pickle import Inert, MetadataClasses, load
from dist_plm.core.errors import CheckpointError, reason_of

_CLASSES = MetadataClasses(
    metadata.Metadata,
    metadata.TensorStorageMetadata,
    metadata.ChunkStorageMetadata,
    metadata.MetadataIndex,
    filesystem._StorageInfo,
    torch.Size,
)
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
#: What Megatron-LM's and DeepSpeed's own files hold beside tensors: command lines, settings, random states.
_UNWANTED_IN_FILES = re.compile(
    r"(megatron|deepspeed|numpy|pathlib|signal|argparse|enum|torch\.distributed)\.[\w.]+|types\.SimpleNamespace"
)


def load_metadata(stream: IO[bytes]) -> metadata.Metadata:
    """Reads what `.metadata` holds.

    Raises:
        pickle.UnpicklingError: it is damaged, or names what does not belong there.
    """
    return load(stream, _CLASSES, _find)


def _find(module: str, name: str) -> Any:
    if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
        return found
    return _REAL.get((module, name))


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
    return _load_saved(path, str(path), mmap=True)


def load_object(stream: BytesIO, where: str) -> Any:
    """The same of what torch.save wrote to memory.

    Args:
        where: it lies, for messages.
    """
    return _load_saved(stream, where, mmap=False)


def _load_saved(source: Path | BytesIO, where: str, *, mmap: bool) -> Any:
    try:
        with _nothing_allowed():
            names = get_unsafe_globals_in_checkpoint(source)
            if strange := sorted(name for name in names if not _UNWANTED_IN_FILES.fullmatch(name)):
                raise CheckpointError(
                    f"{where} names {', '.join(strange)}, which this program does not load from a file of others"
                )
            if isinstance(source, BytesIO):
                source.seek(0)
            with safe_globals([(Inert, name) for name in names]):
                return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except CheckpointError:
        raise
    except Exception as error:  # as above
        raise CheckpointError(f"{where} cannot be read: {reason_of(error, where)}") from None
