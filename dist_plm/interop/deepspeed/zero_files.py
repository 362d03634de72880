"""Reads what DeepSpeed's engine saves under ZeRO 1, 2 and 3: `mp_rank_*_model_states.pt` and `*zero_pp_rank_*_optim_states.pt`.

The fp32 masters and the optimizer's tensors lie in flat pieces, one a data rank. Under ZeRO 1 and 2 those of a parameter group,
one after the other, are its parameters one after the other; under ZeRO 3 each data rank holds its share of each parameter
(`deepspeed/utils/zero_to_fp32.py`, which puts the masters together again). DeepSpeed itself is not needed to read them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dist_plm.checkpoint.io.metadata_pickle import Inert
from dist_plm.checkpoint.io.unpickler import load_file
from dist_plm.core.errors import CheckpointError

_OPTIMIZER = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
#: DeepSpeed pads a flat group so that it divides over data ranks; no padding is longer than this times their number.
_PADDING_A_RANK = 4096


@dataclass(frozen=True, slots=True)
class _Range:
    """Where a parameter lies in a flat group: `length` elements from `start`; under ZeRO 3, that many on each data rank."""

    group: int
    start: int
    length: int
    shape: tuple[int, ...]


class ZeroFiles:
    """A checkpoint of DeepSpeed; see interop.base.ForeignCheckpoint.

    Args:
        path: of the checkpoint (global_step10), or of the directory that it was saved into.

    Raises:
        CheckpointError: it is none, is not complete, is damaged, or of a kind that is not read.
    """

    def __init__(self, path: Path, *, weights_only: bool = False) -> None:
        path = _tagged(path)
        self.where = str(path)
        files = _optimizer_files(path)
        self._data_ranks = max(data for data, _ in files) + 1
        self.tensor_ranks = max(model for _, model in files) + 1
        if missing := [
            f"data rank {data}, model rank {model}"
            for data in range(self._data_ranks)
            for model in range(self.tensor_ranks)
            if (data, model) not in files
        ]:
            raise CheckpointError(f"{path} lacks the optimizer states of {'; '.join(missing)}")
        self._flat = {place: _flat_groups(file, load_file(file)) for place, file in files.items()}
        stage3 = {flat.stage3 for flat in self._flat.values()}
        counts = {flat.data_ranks for flat in self._flat.values() if flat.data_ranks is not None}
        if len(stage3) > 1 or counts - {self._data_ranks}:
            raise CheckpointError(
                f"{path} holds optimizer states of {self._data_ranks} data ranks, and they speak of {sorted(counts)}: files of "
                "several checkpoints are mixed"
            )
        self._stage3 = stage3.pop()
        self._models = [self._read_model_file(path, rank) for rank in range(self.tensor_ranks)]
        model = self._models[0]
        self._ranges = self._lay_out(model)
        self.shapes: Mapping[str, tuple[int, ...]] = {name: r.shape for name, r in self._ranges.items()}
        args = model.get("args")
        self.settings: Mapping[str, Any] = vars(args) if isinstance(args, Inert) else args or {}
        first = self._flat[0, 0]
        self.step = int(model.get("iteration") or model.get("global_steps") or 0)
        self.samples: int | None = model.get("global_samples")
        self.optimizer_steps = first.steps if first.steps is not None else self.step
        moments = () if weights_only else tuple(name for name in first.states if name != "weight")
        self.states: Sequence[str] = ("weight", *moments)

    def read(self, state: str, name: str) -> list[Tensor]:
        held = [self._join(state, self._ranges[name], rank) for rank in range(self.tensor_ranks)]
        if state == "weight" and not self._stage3:
            self._compare(name, held)
        return held

    def _compare(self, name: str, held: Sequence[Tensor]) -> None:
        """The model's own weights are saved too: what was taken from another place than theirs is not like them."""
        for master, model in zip(held, self._models, strict=True):
            weight = model["module"].get(name)
            if weight is None or not torch.allclose(
                master.to(weight.dtype).float(), weight.float(), rtol=0.02, atol=1e-4
            ):
                raise CheckpointError(
                    f"{self.where}: the fp32 weights of {name} are not those of the model beside them: files of several "
                    "checkpoints are mixed, or of a kind of ZeRO that this version does not read"
                )

    def _join(self, state: str, place: _Range, rank: int) -> Tensor:
        flats = [self._flat[data, rank].states[state] for data in range(self._data_ranks)]
        numel = math.prod(place.shape)
        if self._stage3:
            joined = torch.cat([_cut(flat, place.start, place.length) for flat in flats])
        else:
            joined = _cut([flat[place.group] for flat in flats], place.start, place.length)
        return joined[:numel].view(place.shape)

    def _read_model_file(self, path: Path, rank: int) -> dict[str, Any]:
        name = f"{'zero_pp_rank_0_' if self._stage3 else ''}mp_rank_{rank:02d}_model_states.pt"
        if not (path / name).is_file():
            raise CheckpointError(f"{path} is not complete: {name} is missing")
        model = load_file(path / name)
        if not isinstance(model, dict) or not model.get("param_shapes"):
            raise CheckpointError(f"{path / name} says nothing of the parameters' shapes: it is not of ZeRO")
        if frozen := list(model.get("frozen_param_shapes") or ()):
            raise CheckpointError(
                f"{path} was made with frozen parameters ({', '.join(map(str, frozen[:3]))}, …), which have no moments; "
                "this version converts checkpoints of which every parameter was trained"
            )
        return model

    def _lay_out(self, model: Mapping[str, Any]) -> dict[str, _Range]:
        ranges: dict[str, _Range] = {}
        shapes = [{name: tuple(shape) for name, shape in group.items()} for group in model["param_shapes"]]
        first = self._flat[0, 0]
        if self._stage3:
            start = 0
            for name, shape in (pair for group in shapes for pair in group.items()):
                length = -(-math.prod(shape) // self._data_ranks)
                ranges[name] = _Range(0, start, length, shape)
                start += length
            self._check_filled(start, sum(flat.numel() for flat in first.states["weight"]), 1)
            return ranges
        for number, group in enumerate(shapes):
            paddings = first.paddings[number] if first.paddings else [0] * len(group)
            start = 0
            for (name, shape), padding in zip(group.items(), paddings, strict=True):
                ranges[name] = _Range(number, start, math.prod(shape), shape)
                start += math.prod(shape) + padding
            held = [self._flat[data, 0].states["weight"][number].numel() for data in range(self._data_ranks)]
            self._check_filled(start, sum(held), self._data_ranks)
        return ranges

    def _check_filled(self, used: int, held: int, ranks: int) -> None:
        if not used <= held <= used + _PADDING_A_RANK * ranks:
            raise CheckpointError(
                f"{self.where} holds {held:,} elements of optimizer state where its parameters have {used:,}: files of several "
                "checkpoints are mixed, or of a kind of ZeRO that this version does not read"
            )


@dataclass(frozen=True, slots=True)
class _FlatGroups:
    """Holds the flat groups of one rank. `states`: of each state, the weights first, its flat tensors."""

    states: dict[str, list[Tensor]]
    stage3: bool
    data_ranks: int | None
    steps: int | None
    paddings: list[list[int]] | None


def _flat_groups(file: Path, content: Any) -> _FlatGroups:
    state = content.get("optimizer_state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} holds no optimizer state of ZeRO")
    stage3 = "fp32_flat_groups" in state
    weights = state.get("fp32_flat_groups") if stage3 else state.get("single_partition_of_fp32_groups")
    inner = state.get("optimizer_state_dict") if stage3 else state.get("base_optimizer_state")
    if not isinstance(weights, list | tuple) or not all(isinstance(w, Tensor) for w in weights):
        raise CheckpointError(f"{file} holds no fp32 weights: it is not of ZeRO 1, 2 or 3")
    states = {"weight": list(weights)}
    held, groups = _inner(inner)
    if sorted(held) == list(range(len(weights))):
        for name, value in held[0].items():
            if isinstance(value, Tensor) and value.dim() == 1 and value.numel() >= weights[0].numel():
                states[name] = [held[index][name] for index in range(len(weights))]
    elif held:
        raise CheckpointError(f"{file} holds optimizer state of {len(held)} groups for {len(weights)} of weights")
    counts = state.get("partition_count")
    steps = next((int(one["step"]) for one in (*held.values(), *groups) if "step" in one), None)
    return _FlatGroups(
        states=states,
        stage3=stage3,
        data_ranks=max(counts) if isinstance(counts, list) and counts else counts if isinstance(counts, int) else None,
        steps=steps,
        paddings=cast("list[list[int]] | None", state.get("param_alignment_paddings")),
    )


def _inner(inner: Any) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """State by group, and the groups' settings: DeepSpeed's elastic checkpoints hold the former alone, as a list."""
    if isinstance(inner, list):
        return dict(enumerate(inner)), []
    if not isinstance(inner, dict):
        return {}, []
    return dict(inner.get("state", {})), list(inner.get("param_groups", []))


def _cut(pieces: Sequence[Tensor], start: int, length: int) -> Tensor:
    """The elements [start, start + length) of the pieces one after the other."""
    parts, first = [], 0
    for piece in pieces:
        low, high = max(start - first, 0), min(start + length - first, piece.numel())
        if low < high:
            parts.append(piece[low:high])
        first += piece.numel()
    return torch.cat(parts) if parts else torch.empty(0)


def _tagged(path: Path) -> Path:
    """The directory of one checkpoint, where `path` is that of all."""
    latest = path / "latest"
    if not latest.is_file():
        return path
    tag = latest.read_text(errors="replace").strip()
    if not tag or not (path / tag).is_dir():
        raise CheckpointError(f"{latest} says {tag!r}, which {path} does not hold: name one of the directories in it")
    return path / tag


def _optimizer_files(path: Path) -> dict[tuple[int, int], Path]:
    """By data and model rank."""
    if any(path.glob("layer_*model_states.pt")):
        raise CheckpointError(
            f"{path} is of DeepSpeed's PipelineModule, whose layers are files by number and not by name: this version "
            "converts checkpoints of DeepSpeed's engine without a pipeline"
        )
    found = {}
    for file in path.glob("*_optim_states.pt"):
        name = _OPTIMIZER.fullmatch(file.name)
        if name is None:
            raise CheckpointError(f"{file} is of experts, which this version does not convert")
        found[int(name[1]), int(name[2])] = file
    if not found:
        raise CheckpointError(f"{path} holds no *zero_pp_rank_*_optim_states.pt: it is not of ZeRO 1, 2 or 3")
    return found
