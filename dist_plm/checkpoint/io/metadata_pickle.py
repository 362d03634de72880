"""Reads `.metadata` of torch.distributed.checkpoint without running what it may say, into PyTorch's classes or into others.

It is a pickle, which may name any function and have it called: here only classes that the caller gives come to life.
"""

import pickle
import re
from collections.abc import Callable
from typing import IO, Any, NamedTuple

from dist_plm.core.errors import described

#: Megatron-core keeps its writers' plans in there, and the path that was written to.
_UNWANTED = re.compile(
    r"torch\.distributed\.checkpoint\.planner\.\w+|megatron\.core\.dist_checkpointing\.[\w.]+|pathlib\.\w*Path"
)


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


class MetadataClasses(NamedTuple):
    """The classes that a file of metadata is read into, by what PyTorch calls them."""

    Metadata: type
    TensorStorageMetadata: type
    ChunkStorageMetadata: type
    MetadataIndex: type
    StorageInfo: type
    Size: type


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], find: Callable[[str, str], Any]) -> None:
        super().__init__(stream)
        self._find = find

    def find_class(self, module: str, name: str) -> Any:
        if (found := self._find(module, name)) is not None:
            return found
        if _UNWANTED.fullmatch(f"{module}.{name}"):
            return Inert
        raise pickle.UnpicklingError(f"it names {module}.{name}, which has no place in a checkpoint")


def load(stream: IO[bytes], classes: MetadataClasses, find: Callable[[str, str], Any]) -> Any:
    """Reads what `.metadata` holds, and checks that its parts are whole.

    Args:
        find: gives what stands for a name of a module; None where it has no place there.
    Raises:
        pickle.UnpicklingError: it is damaged, or names what does not belong there.
    """
    try:
        found = _Unpickler(stream, find).load()
    except (EOFError, OSError, pickle.UnpicklingError):
        raise
    except Exception as error:  # a damaged pickle runs into whatever it happens to say
        raise pickle.UnpicklingError(described(error)) from None
    if not isinstance(found, classes.Metadata):
        raise pickle.UnpicklingError(f"it holds a {type(found).__name__}")
    for name, tensor in _attribute(found, "state_dict_metadata", dict).items():
        if isinstance(tensor, classes.TensorStorageMetadata):
            _check_tensor(name, tensor, classes)
    for index, info in (_attribute(found, "storage_data", dict | None) or {}).items():
        if not isinstance(index, classes.MetadataIndex) or not isinstance(info, classes.StorageInfo):
            raise pickle.UnpicklingError("it places what is no part of a tensor")
        _attribute(index, "fqn", str)
        _attribute(info, "relative_path", str)
        _attribute(info, "offset", int)
        _attribute(info, "length", int)
    return found


def _check_tensor(name: str, tensor: Any, classes: MetadataClasses) -> None:
    size = _attribute(tensor, "size", classes.Size)
    for chunk in _attribute(tensor, "chunks", list):
        if not isinstance(chunk, classes.ChunkStorageMetadata):
            raise pickle.UnpicklingError(f"{name} holds a {type(chunk).__name__} among its parts")
        parts = [_attribute(chunk, "offsets", classes.Size), _attribute(chunk, "sizes", classes.Size)]
        if any(len(part) != len(size) for part in parts):
            raise pickle.UnpicklingError(f"parts of {name} have other dimensions than it has")


def _attribute(thing: Any, name: str, kind: Any) -> Any:
    """Looks for an attribute where a damaged pickle may have left none, or one of another kind."""
    value = getattr(thing, name, Inert)
    if not isinstance(value, kind):
        raise pickle.UnpicklingError(f"it holds a {type(thing).__name__} whose {name} is none")
    return value
