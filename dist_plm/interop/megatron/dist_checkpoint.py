"""Reads what Megatron-LM saves with `--ckpt-format torch_dist`: Megatron-core's `dist_checkpointing` on
torch.distributed.checkpoint.

Layers lie in tensors of their own (`decoder.layers.3.mlp…`) or all in one (`decoder.layers.mlp…`, [layers, …]); the optimizer's
tensors, where they were saved fully reshardable, under `optimizer.state.<state>.<name of the weight>`, else in buckets.
"""

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from dist_plm.checkpoint.io.blobs import SafeReader
from dist_plm.checkpoint.io.unpickler import load_file, load_object
from dist_plm.checkpoint.planner import TensorReader
from dist_plm.core.errors import CheckpointError, reason_of
from dist_plm.core.parsing import load_json
from dist_plm.core.regular import read_regular
from dist_plm.interop.megatron.buckets import BUCKETS, Buckets
from dist_plm.models.sharding import Shard

_LATEST = "latest_checkpointed_iteration.txt"
#: What no rank has a part of, as an object of one shard.
_COMMON = MetadataIndex("common_state/shard_0_1")
_STACKED = re.compile(r"(.*\blayers)\.(?!\d)(.+)")
_STATE = "optimizer.state."
#: Names of the fp32 masters: of the distributed optimizer, and of the one without.
_MASTERS = ("param", "fp32_param")


@dataclass(frozen=True, slots=True)
class _StoredTensor:
    """Where a tensor lies: `name` in the checkpoint, and which layer of it where all layers are one tensor."""

    name: str
    layer: int | None


class MegatronDist:
    """A torch_dist checkpoint; see interop.base.ForeignCheckpoint. Its tensors are whole, whatever grid wrote them.

    Args:
        path: of the checkpoint (iter_0000010), or of the directory that Megatron-LM saves into.

    Raises:
        CheckpointError: it is not one, is damaged, or its optimizer's tensors lie in a way that only the grid which wrote
            them can read.
    """

    tensor_ranks = 1

    def __init__(self, path: Path, *, weights_only: bool = False) -> None:
        path = _iteration(path)
        self.where = str(path)
        _check_format(path)
        reader = SafeReader(path)
        try:
            metadata = reader.read_metadata()
            self._tensors = TensorReader(reader, metadata)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path}/.metadata cannot be read: {reason_of(error, f'{path}/.metadata')}") from None
        common, where = _common(path, metadata)
        if not isinstance(common, Mapping):
            raise CheckpointError(f"{where} holds a {type(common).__name__}, where Megatron-LM writes a mapping")
        self.settings: Mapping[str, Any] = _settings(common.get("args"), where)
        self.step = _count(common.get("iteration", 0), f"iteration of {where}")
        samples = self.settings.get("consumed_train_samples")
        named = f"consumed_train_samples of {where}"
        self.samples: int | None = None if samples is None else _count(samples, named)
        self.optimizer_steps = _optimizer_steps(common.get("optimizer"), self.step)
        self._places, shapes = self._numbered()
        self.shapes: Mapping[str, tuple[int, ...]] = shapes
        self._buckets = None if weights_only else self._find_buckets()
        self._stored_states = {} if weights_only or self._buckets else self._find_states()
        moments = self._buckets.states if self._buckets else [s for s in self._stored_states if s not in _MASTERS]
        self.states: Sequence[str] = ("weight", *moments)

    def read(self, state: str, name: str) -> list[Tensor]:
        if self._buckets is not None:
            return [self._buckets.read(state, name)]
        place, prefix = self._places[name], ""
        if state == "weight":
            masters = [m for m in _MASTERS if f"{_STATE}{m}.{place.name}" in self._stored_states.get(m, ())]
            prefix = f"{_STATE}{masters[0]}." if masters else ""
        else:
            prefix = f"{_STATE}{state}."
        return [self._read(prefix + place.name, place.layer)]

    def _read(self, stored: str, layer: int | None, dtype: torch.dtype = torch.float32) -> Tensor:
        whole = tuple(self._tensors.tensors[stored].size)
        start, size = (0,) * len(whole), whole
        if layer is not None:
            start, size = (layer, *start[1:]), (1, *whole[1:])
        values = torch.zeros(size, dtype=dtype)
        try:
            self._tensors.read_shards([(stored, Shard(stored, whole, start, (0,) * len(whole), size), values)])
        except Exception as error:  # what a damaged file leads to is not known
            raise CheckpointError(f"{self.where}: {stored} cannot be read: {reason_of(error)}") from None
        return values[0] if layer is not None else values

    def _find_buckets(self) -> Buckets | None:
        """Where the optimizer's tensors lie as the grid that wrote them had them."""
        if not any(name.startswith(BUCKETS) for name in self._tensors.tensors):
            return None
        ranks = _count(
            self.settings.get("tensor_model_parallel_size", 1), f"tensor_model_parallel_size of {self.where}"
        )
        return Buckets(self.where, self._tensors, self.shapes, self._model_weight, ranks)

    def _model_weight(self, name: str) -> Tensor:
        place = self._places[name]
        return self._read(place.name, place.layer, self._tensors.tensors[place.name].properties.dtype)

    def _numbered(self) -> tuple[dict[str, _StoredTensor], dict[str, tuple[int, ...]]]:
        places: dict[str, _StoredTensor] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, stored in self._tensors.tensors.items():
            if name.startswith("optimizer."):
                continue
            stacked = _STACKED.fullmatch(name)
            if stacked is None:
                places[name], shapes[name] = _StoredTensor(name, None), tuple(stored.size)
                continue
            for layer in range(stored.size[0]):
                own = f"{stacked[1]}.{layer}.{stacked[2]}"
                places[own], shapes[own] = _StoredTensor(name, layer), tuple(stored.size[1:])
        return places, shapes

    def _find_states(self) -> dict[str, set[str]]:
        """The optimizer's states, and under which names each is there."""
        found: dict[str, set[str]] = {}
        weights = {place.name for place in self._places.values()}
        for name in self._tensors.tensors:
            if not name.startswith("optimizer."):
                continue
            state, _, weight = name.removeprefix(_STATE).partition(".")
            if not name.startswith(_STATE) or weight not in weights or self._differs(name, weight):
                raise CheckpointError(
                    f"{self.where} holds the optimizer's tensors as the grid that wrote it had them ({name}), not as the "
                    "model's: have Megatron-LM save it with --dist-ckpt-optim-fully-reshardable, or convert the weights "
                    "alone with weights_only=true"
                )
            found.setdefault(state, set()).add(name)
        for state, names in found.items():
            missing = sorted(weight for weight in weights if f"{_STATE}{state}.{weight}" not in names)
            if missing and state not in _MASTERS:
                raise CheckpointError(
                    f"{self.where} holds no {_STATE}{state}.{missing[0]}, though it does of other weights"
                )
        return found

    def _differs(self, name: str, weight: str) -> bool:
        return tuple(self._tensors.tensors[name].size) != tuple(self._tensors.tensors[weight].size)


def _iteration(path: Path) -> Path:
    """The directory of one iteration, where `path` is that of all."""
    latest = path / _LATEST
    if not latest.is_file():
        return path
    text = latest.read_text(errors="replace").strip()
    name = text if text == "release" else f"iter_{int(text):07d}" if text.isdecimal() else ""
    if not name or not (path / name).is_dir():
        raise CheckpointError(f"{latest} says {text!r}, which {path} does not hold: name one of the directories in it")
    return path / name


def _check_format(path: Path) -> None:
    settings = path / "metadata.json"
    if not settings.is_file():
        kind = "an older one of Megatron-LM" if any(path.glob("mp_rank_*/model_optim_rng.pt")) else "incomplete"
        raise CheckpointError(
            f"{path} is no torch_dist checkpoint, which holds metadata.json; it is {kind}: have Megatron-LM save it with "
            "--ckpt-format torch_dist"
        )
    try:
        content = load_json(read_regular(settings))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{settings} is damaged: {reason_of(error, settings)}") from None
    if not isinstance(content, dict) or "sharded_backend" not in content:
        raise CheckpointError(f"{settings} is damaged: it does not tell of a sharded_backend")
    backend = content["sharded_backend"]
    if backend != "torch_dist":
        raise CheckpointError(f"{path} is of format {backend}: have Megatron-LM save it with --ckpt-format torch_dist")


def _common(path: Path, metadata: Metadata) -> tuple[Any, str]:
    """Reads what no rank has a part of, and says where it lies: in a file of its own, or, as Megatron-core 0.19 saves it, in an
    object among the tensors."""
    file = path / "common.pt"
    stored = metadata.storage_data.get(_COMMON) if isinstance(metadata.storage_data, dict) else None
    if stored is None or file.exists():
        return load_file(file), str(file)
    where = f"{_COMMON.fqn} of {path}"
    try:
        with (path / Path(stored.relative_path).name).open("rb") as saved:
            saved.seek(stored.offset)
            content = BytesIO(saved.read(stored.length))
    except Exception as error:  # of what kind a damaged .metadata makes `stored` is not known
        raise CheckpointError(f"{where} cannot be read: {reason_of(error)}") from None
    held = load_object(content, where)
    return (held[0] if isinstance(held, list) and held else held), where


def _settings(arguments: Any, where: str) -> dict[str, Any]:
    """Reads Megatron-LM's command line, a namespace or the `Inert` in its place."""
    if arguments is None:
        return {}
    if isinstance(arguments, Mapping) or not hasattr(arguments, "__dict__"):
        raise CheckpointError(f"args of {where} is a {type(arguments).__name__}, where Megatron-LM writes a namespace")
    return dict(vars(arguments))


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise CheckpointError(f"{name} is {str(value)[:80]!r}, where a whole number belongs")
    return value


def _optimizer_steps(optimizer: Any, default: int) -> int:
    """How many steps the optimizer has counted, wherever it keeps that."""
    if not isinstance(optimizer, Mapping):
        return default
    for key, value in optimizer.items():
        if key in ("step", "common_step") and isinstance(value, int | float | Tensor):
            return int(value)
        inner = [value] if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else []
        for part in inner:
            if (found := _optimizer_steps(part, -1)) >= 0:
                return found
    return default
