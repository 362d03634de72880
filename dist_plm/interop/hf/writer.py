"""Safetensors files as Hugging Face's `save_pretrained` lays them out, written a tensor at a time.

Format: https://huggingface.co/docs/safetensors (8 bytes of length, a JSON header, the numbers in the header's order).
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dist_plm.interop.hf.files import DTYPES, INDEX_FILE, WEIGHTS_FILE

_TYPES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Written:
    files: int
    bytes: int


def write_weights(
    directory: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    *,
    dtype: torch.dtype,
    limit_bytes: int,
) -> Written:
    """Writes the tensors `shapes`, whose values `read` gives by name, to model.safetensors, or where they hold more than
    `limit_bytes` to files of at most that (or one tensor) and an index."""
    shards = list(_shards(shapes, dtype.itemsize, limit_bytes))
    total = dtype.itemsize * sum(map(math.prod, shapes.values()))
    if len(shards) == 1:
        _write(directory / WEIGHTS_FILE, shards[0], shapes, read, dtype)
        return Written(1, total)
    files: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write(directory / file, names, shapes, read, dtype)
        files |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
    (directory / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
    return Written(len(shards), total)


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
        header[name] = {"dtype": _TYPES[dtype], "shape": list(shapes[name]), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # aligns the numbers
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = read(name)
            assert tuple(tensor.shape) == shapes[name], name
            file.write(tensor.to(dtype).contiguous().reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
