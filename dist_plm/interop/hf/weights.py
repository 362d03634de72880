"""The weights of a directory of Hugging Face, as logical tensors of ours that are read a slice at a time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_plm.core.errors import CheckpointError, count_of
from dist_plm.interop.hf.base import HEADS, Half, HFModel, HFTensor, architecture_of
from dist_plm.interop.hf.config_json import CONFIG_FILE, HALVES, model_of, read_config, type_of
from dist_plm.interop.hf.registry import ELECTRA, MODELS, guessed_type
from dist_plm.interop.hf.safetensors_files import DTYPES, WeightFiles, listed
from dist_plm.models.sharding import Shard, ShardSpec
from dist_plm.spec.families.tensors import shapes_of
from dist_plm.spec.schema import ModelConfig


@dataclass(frozen=True, slots=True)
class _TensorSource:
    """Where a logical tensor is: `stored` is its name in `files`."""

    entry: HFTensor
    files: WeightFiles
    stored: str


class HFWeights:
    """A directory of Hugging Face: its model and its weights. See `open_hf`.

    Attributes:
        where: how messages call it.
        model: complete but for `max_positions` where no table of them is learned; `pair_head` says whether there is one.
        half: of electra, where it is one half alone.
        shapes: of the logical tensors that there are, by canonical name.
        left_out: names of tensors that our model has no place for.
        settings: the content of config.json, one for each half of electra.
    """

    def __init__(self, where: str, model: ModelConfig, half: Half | None, parts: Mapping[Half | None, "_Part"]) -> None:
        self.where = where
        self.half: Half | None = half
        self.settings: dict[Half | None, Mapping[str, Any]] = {name: part.settings for name, part in parts.items()}
        self._parts = parts
        self._places = {name: place for part in parts.values() for name, place in part.places(model).items()}
        (self.theirs,) = {part.theirs for part in parts.values()}
        self.model = self.theirs.with_heads_of(model, self._places)
        shapes = shapes_of(self.theirs.with_all_heads(model))
        self.shapes = {name: shapes[name] for name in self._places}
        self.left_out = [name for part in parts.values() for name in part.left_out]

    def read_shard(self, shard: Shard) -> Tensor:
        """The box of the logical tensor shard.name, as it is stored and perhaps a view of the file."""
        place = self._places[shard.name]
        box = [slice(first, first + size) for first, size in zip(shard.start, shard.size, strict=True)]
        if place.entry.part is not None:
            before = place.entry.part[0] * shard.shape[0]
            box[0] = slice(before + box[0].start, before + box[0].stop)
        if not place.entry.transposed:
            return place.files.read(place.stored, tuple(box))
        return place.files.read(place.stored, tuple(reversed(box))).T

    def read(self, shard_spec: ShardSpec) -> Tensor:
        """fp32 values shaped like shard_spec.parameter, zero where it is padding."""
        values = torch.zeros(shard_spec.shape, dtype=torch.float32)
        for shard in shard_spec.shards:
            if shard.numel:
                shard.local(values).copy_(self.read_shard(shard))
        return values

    def check_copies(self) -> None:
        """Compares what the files hold more than once. It reads those tensors whole.

        Raises:
            CheckpointError: the copies differ: they are not tied, as they are in our model.
        """
        for part in self._parts.values():
            part.check_copies(self.model)
        if len(self._parts) > 1:
            first, second = (part.places(self.model) for part in self._parts.values())
            for name in first.keys() & second.keys():
                tensors = [place.files.read(place.stored) for place in (first[name], second[name])]
                if not torch.equal(*tensors):
                    raise CheckpointError(
                        f"{first[name].entry.hf} differs between {first[name].files.directory} and "
                        f"{second[name].files.directory}: the halves of electra share their embeddings here"
                    )

    @property
    def dtype(self) -> torch.dtype:
        """Gives the type of the widest tensor."""
        dtypes = {DTYPES[place.files.tensors[place.stored].type] for place in self._places.values()}
        return max(dtypes, key=lambda dtype: (dtype.itemsize, dtype == torch.bfloat16))


class _Part:
    """One config.json with its files: a model, or one half of electra."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.settings = read_config(directory)
        self.files = WeightFiles(directory)
        where = str(directory / CONFIG_FILE)
        if self.settings.get("model_type") is None:
            self.settings = {**self.settings, "model_type": guessed_type(self.files.tensors)}
        self.theirs: HFModel = MODELS[type_of(self.settings, where)]
        self.model = model_of(self.settings, where)
        names = self._names = _normalised(self.files.tensors, self.theirs)
        self.half: Half | None = self.theirs.half_of(names) if self.model.predicts_tokens else None
        self.copies = {
            copy: name
            for copy, name in self.theirs.copies.items()
            if copy in names
            and (copy != "lm_head.weight" or (self.model.tied_embeddings and self.model.predicts_tokens))
        }
        for copy, name in self.copies.items():
            names.setdefault(name, names[copy])
        for absent, name in self.theirs.left_to_others(self.settings).items():
            if name in names:
                names.setdefault(absent, names[name])
        self.left_out: list[str] = []

    def places(self, model: ModelConfig) -> dict[str, _TensorSource]:
        """By canonical name.

        Raises:
            CheckpointError: naming tensors that are missing, that no model of ours has, or of other shapes than the model's.
        """
        complete = self.theirs.with_all_heads(model)
        entries, shapes = list(self.theirs.tensors(complete, self.half)), shapes_of(complete)
        self._check_names(entries)
        places = {e.name: _TensorSource(e, self.files, self._names[e.hf]) for e in entries if e.hf in self._names}
        for place in places.values():
            found = self.files.tensors[place.stored]
            shape = place.entry.stored_shape(shapes[place.entry.name])
            if found.shape != shape:
                raise CheckpointError(
                    f"{found.file}: {place.stored} is {list(found.shape)}, where the sizes in {CONFIG_FILE} make it "
                    f"{list(shape)}: the two are not of one model"
                )
            if found.dtype is None:
                raise CheckpointError(
                    f"{found.file}: {place.stored} is of type {found.type}, where {', '.join(DTYPES)} can be read: convert "
                    "quantised weights back first"
                )
        return places

    def check_copies(self, model: ModelConfig) -> None:
        for copy, name in self.copies.items():
            stored = [self._names[copy], self._names[name]]
            if stored[0] != stored[1] and not torch.equal(*map(self.files.read, stored)):
                raise CheckpointError(
                    f"{self.directory}: {stored[0]} differs from {stored[1]}, to which it is tied in model.family = "
                    f"{model.family!r}: such a model cannot be said here"
                )

    def _check_names(self, entries: list[HFTensor]) -> None:
        known = {entry.hf for entry in entries} | self.copies.keys()
        needed = self.theirs.needed_by(architecture_of(self.settings))
        missing = [
            e.hf
            for e in entries
            if e.hf not in self._names and (not e.name.startswith(HEADS) or e.name.startswith(needed))
        ]
        if missing:
            raise CheckpointError(f"{self.directory} lacks {_counted(missing)} of a {self._class}: {listed(missing)}")
        others = [name for name in self._names if name not in known and not self.theirs.idle.search(name)]
        left_out = self.theirs.left_out if self.model.predicts_tokens else self.theirs.task_left_out
        self.left_out = [self._names[name] for name in others if left_out.search(name)]
        if unknown := [self._names[name] for name in others if not left_out.search(name)]:
            raise CheckpointError(
                f"{self.directory} holds {_counted(unknown)} that a {self._class} does not have: {listed(unknown)}"
            )

    @property
    def _class(self) -> str:
        return architecture_of(self.settings) or f"model of model_type {self.theirs.model_type!r}"


def open_hf(path: str) -> HFWeights:
    """The directory of Hugging Face at `path`: with config.json and safetensors, or for electra one that holds two such
    directories, `generator` and `discriminator`.

    Raises:
        CheckpointError: a file is missing, damaged or of another kind; the model is none of ours; tensors are missing, not
            known, or of other shapes than config.json says.
    """
    directory = Path(path)
    if directory.is_file():
        raise CheckpointError(f"{path} is a file: give the directory that holds it, and {CONFIG_FILE} beside it")
    if not directory.is_dir():
        raise CheckpointError(f"there is no directory {path}")
    if (directory / CONFIG_FILE).exists() or not all((directory / half).is_dir() for half in HALVES):
        part = _Part(directory)
        return HFWeights(path, part.model, part.half, {part.half: part})
    parts: dict[Half | None, _Part] = {half: _Part(directory / half) for half in HALVES}
    for half, part in parts.items():
        if part.half != half:
            raise CheckpointError(f"{part.directory} holds no {half} of electra, but {part.half or part.model.family}")
    return HFWeights(path, ELECTRA.joined([part.model for part in parts.values()], path), None, parts)


def _normalised(stored: Iterable[str], theirs: HFModel) -> dict[str, str]:
    """Stored names by those of today's classes that predict: networks alone lack a prefix, and files that were made from
    TensorFlow's call the two halves of a norm gamma and beta."""
    names = list(stored)
    bare = not any(name.startswith(theirs.prefix) for name in names)
    return {
        (theirs.prefix if bare and not name.startswith(theirs.head_names) else "")
        + name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): name
        for name in names
    }


def _counted(names: list[str]) -> str:
    return count_of(len(names), "tensor")
