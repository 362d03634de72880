"""Reads and writes the safetensors files of a directory of Hugging Face, a slice or a tensor at a time.

Format: https://huggingface.co/docs/safetensors (8 bytes of length, a JSON header, the numbers in the header's order).
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dist_plm.checkpoint.finite import is_finite
from dist_plm.core.errors import CheckpointError, reason_of
from dist_plm.core.parsing import load_json
from dist_plm.core.regular import open_descriptor, read_regular

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

#: Types of weights, by safetensors' names.
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
#: Weights in files whose reading may run any program that is in them.
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt", "*.bin", "*.msgpack", "*.h5")


@dataclass(frozen=True, slots=True)
class SafetensorsEntry:
    """A tensor in a file; `type` is safetensors' name of its numbers."""

    file: Path
    shape: tuple[int, ...]
    type: str

    @property
    def dtype(self) -> torch.dtype | None:
        """None where it is no type of weights."""
        return DTYPES.get(self.type)


class WeightFiles:
    """`tensors` are those of model.safetensors, or of all files that model.safetensors.index.json names.

    Raises:
        CheckpointError: a file is missing, truncated, damaged or not of safetensors.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._open: dict[Path, Any] = {}
        self.tensors: dict[str, SafetensorsEntry] = {}
        indexed = _index(directory)
        for file in (
            [directory / WEIGHTS_FILE] if indexed is None else sorted({directory / f for f in indexed.values()})
        ):
            for name, stored in self._tensors_of(file).items():
                if indexed is None or directory / indexed.get(name, "") == file:
                    self.tensors[name] = stored
        if indexed is not None and (absent := [name for name in indexed if name not in self.tensors]):
            raise CheckpointError(
                f"{directory / indexed[absent[0]]} lacks {listed(absent)}, which {INDEX_FILE} places there"
            )

    def read(self, name: str, box: tuple[slice, ...] | None = None) -> Tensor:
        """A tensor, or a box of it, as it is stored. It may be a view of the file: copy before the file changes."""
        stored = self.tensors[name]
        file = self._file(stored.file)
        return file.get_tensor(name) if box is None or not stored.shape else file.get_slice(name)[box]

    def _tensors_of(self, file: Path) -> dict[str, SafetensorsEntry]:
        opened = self._file(file)
        found: dict[str, SafetensorsEntry] = {}
        for name in opened.keys():  # noqa: SIM118 -- it is no mapping
            view = opened.get_slice(name)
            found[name] = SafetensorsEntry(file, tuple(view.get_shape()), view.get_dtype())
        return found

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            try:
                os.close(open_descriptor(path))  # safe_open calls missing what may not be read
            except FileNotFoundError:
                raise CheckpointError(f"{path} is missing: fetch or copy the directory again") from None
            except (OSError, ValueError) as error:  # the latter of a name that none can have
                raise CheckpointError(f"{path} cannot be read: {reason_of(error, path)}") from None
            try:
                self._open[path] = safe_open(path, framework="pt").__enter__()
            except (SafetensorError, OSError, ValueError) as error:
                raise CheckpointError(
                    f"{path} is truncated, damaged or not of safetensors ({reason_of(error, path)}): fetch or copy it again"
                ) from None
        return self._open[path]


def listed(names: list[str], most: int = 5) -> str:
    """Names for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _index(directory: Path) -> dict[str, str] | None:
    """File of each tensor, where there are several files. As in Transformers, a single file goes before an index, which
    another saving may have left there."""
    path = directory / INDEX_FILE
    if (directory / WEIGHTS_FILE).exists():
        return None
    if not path.exists():
        raise CheckpointError(_no_weights(directory))
    try:
        files = load_json(read_regular(path))["weight_map"]
        assert all(isinstance(file, str) for file in files.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise CheckpointError(
            f"{path} is no index of weights ({reason_of(error, path)}): fetch or copy it again"
        ) from None
    if outside := [file for file in files.values() if Path(file).name != file]:
        raise CheckpointError(f"{path} names {outside[0]}, a file outside of its directory")
    return files


def _no_weights(directory: Path) -> str:
    pickles = sorted({path.name for pattern in _PICKLES for path in directory.glob(pattern)})
    if pickles:
        return (
            f"{directory} holds its weights in {listed(pickles)}, whose reading can run any program that was put there: "
            "convert them to safetensors where that does no harm, with save_pretrained of Hugging Face, and give that directory"
        )
    others = sorted(path.name for path in directory.glob("*.safetensors"))
    beside = f", only {listed(others)}: rename it, or restore the index" if others else ""
    return f"{directory} has neither {WEIGHTS_FILE} nor {INDEX_FILE}{beside}"


@dataclass(frozen=True, slots=True)
class WrittenWeights:
    files: int
    bytes: int


def write_weights(
    directory: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    *,
    dtype: torch.dtype,
    limit_bytes: int,
) -> WrittenWeights:
    """Writes the tensors `shapes`, whose values `read` gives by name, to model.safetensors, or where they hold more than
    `limit_bytes` to files of at most that (or one tensor) and an index.

    Raises:
        CheckpointError: a number of one is larger than those of `dtype`.
    """
    shards = list(_shards(shapes, dtype.itemsize, limit_bytes))
    total = dtype.itemsize * sum(map(math.prod, shapes.values()))
    if len(shards) == 1:
        _write(directory / WEIGHTS_FILE, shards[0], shapes, read, dtype)
        return WrittenWeights(1, total)
    files: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write(directory / file, names, shapes, read, dtype)
        files |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    return WrittenWeights(len(shards), total)


def _shards(shapes: Mapping[str, tuple[int, ...]], item_bytes: int, limit: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        more = item_bytes * math.prod(shape)
        if names and size + more > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += more
    yield names


def _write(
    path: Path,
    names: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    dtype: torch.dtype,
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        end = offset + dtype.itemsize * math.prod(shapes[name])
        header[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": list(shapes[name]), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the numbers
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = read(name)
            assert tuple(tensor.shape) == shapes[name], name
            stored = tensor.to(dtype)
            if not is_finite(stored) and is_finite(tensor):
                raise CheckpointError(
                    f"{name} holds {tensor.abs().max():g}, too large for {_DTYPE_NAMES[dtype]}: write another dtype, "
                    "as dtype=bf16 or dtype=fp32"
                )
            file.write(stored.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
