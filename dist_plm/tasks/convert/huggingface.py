"""Between directories of Hugging Face and checkpoints, in both directions, one tensor at a time."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dist_plm.checkpoint.finite import is_finite
from dist_plm.checkpoint.fragments import checkpoint_name, whole
from dist_plm.checkpoint.open_checkpoint import Checkpoint, look_at
from dist_plm.checkpoint.storage import open_storage
from dist_plm.checkpoint.streaming import write_checkpoint
from dist_plm.checkpoint.train_state import RUN_FILE, TrainState
from dist_plm.config.decode import encode
from dist_plm.config.runfile import to_yaml
from dist_plm.core.errors import CheckpointError
from dist_plm.core.installed import typed_setting
from dist_plm.core.parsing import load_json
from dist_plm.interop.hf.base import HEADS, Half, HFModel, HFTensor
from dist_plm.interop.hf.checkpoint_tokenizer import CheckpointTokenizer, tokenizer_files, tokens_of, unset_of
from dist_plm.interop.hf.config_json import CONFIG_FILE, HALVES, hf_config
from dist_plm.interop.hf.registry import MODELS, hf_model
from dist_plm.interop.hf.safetensors_files import WrittenWeights, listed, write_weights
from dist_plm.interop.hf.weights import HFWeights, open_hf
from dist_plm.models.build import DTYPES
from dist_plm.spec.families.lora import ADAPTERS
from dist_plm.spec.families.tensors import shapes_of
from dist_plm.spec.objectives import OBJECTIVES
from dist_plm.spec.schema import ModelConfig
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.checkpoint_model import (
    config_name,
    model_of_checkpoint,
    task_settings,
)
from dist_plm.tasks.convert.directories import as_path, fresh_directory, refuse_unless_fresh
from dist_plm.tasks.convert.generation_files import generation_files
from dist_plm.train.startup.load_weights import MODEL_FILE


def import_hf(config: ConvertConfig) -> str:
    """Makes the directory of Hugging Face at config.from_ a checkpoint of weights alone, in the directory config.to.

    Raises:
        CheckpointError: it cannot be read, or there is something in config.to already.
    """
    assert config.from_ is not None
    assert config.to is not None
    started = time.monotonic()
    weights = open_hf(config.from_)
    if weights.half is not None:
        raise CheckpointError(
            f"{config.from_} is the {weights.half} of electra alone: put both halves in one directory, as "
            f"{' and '.join(HALVES)}, and give that"
        )
    weights.check_copies()
    refuse_unless_fresh(config.to)
    with fresh_directory(config.to) as directory:
        num_bytes = write_checkpoint(
            open_storage(directory),
            TrainState(step=0, samples_seen=0, engine={}, stream={}),
            {checkpoint_name("weight", name): shape for name, shape in weights.shapes.items()},
            lambda box: weights.read_shard(replace(box, name=box.name.removeprefix("model."))),
            _attachments(weights),
        )
    return "\n".join([_told(config.to, num_bytes, started), *_notes(weights, config.to)])


def _attachments(weights: HFWeights) -> dict[str, bytes]:
    said = {name: value for name, value in encode(weights.model).items() if value is not None}
    for name in ("pair_head", "head", "num_labels"):  # follow the objective
        said.pop(name, None)
    files = {MODEL_FILE: to_yaml(said).encode()}
    for half, settings in weights.settings.items():
        said = {**settings, "dtype": str(weights.dtype).removeprefix("torch.")}
        said.pop("torch_dtype", None)
        files[config_name(half)] = json.dumps(said, indent=2, ensure_ascii=False).encode()
    directory = Path(weights.where)
    for name, path in tokenizer_files([directory, *(directory / half for half in HALVES)]).items():
        files[name] = _content(path)
    return files


def _content(path: Path) -> bytes:
    """Reads a tokenizer's file, or what a link in its place leads to, if that is such a file."""
    content = path.read_bytes()
    try:
        if path.suffix == ".json":
            load_json(content)
    except ValueError as error:
        raise CheckpointError(f"{path}, of the tokenizer, is no JSON ({error}): fetch or copy it again") from error
    return content


def _notes(weights: HFWeights, to: str) -> list[str]:
    notes = []
    if weights.left_out:
        notes.append(f"left out, as the model has no place for them: {listed(weights.left_out)}")
    theirs = weights.theirs
    wanted = _tensors(theirs, weights.model)
    if absent := [name for name in wanted if name not in weights.shapes]:
        notes.append(f"not there, so training begins with fresh ones: {listed(absent)}")
    notes.append(
        f"its model as a file for conf/model/: {to}/step_00000000/{MODEL_FILE}; go on with "
        f"{typed_setting('train.resume', as_path(to))}"
    )
    return notes


def _tensors(theirs: HFModel, model: ModelConfig) -> list[str]:
    """Canonical names of all that a model may have, of its halves together where it has such."""
    complete = theirs.with_all_heads(model)
    entries = (entry for half in theirs.halves_of(model) for entry in theirs.tensors(complete, half))
    return list(dict.fromkeys(entry.name for entry in entries))


def export_hf(config: ConvertConfig) -> str:
    """Makes the checkpoint at config.from_ a directory of Hugging Face, config.to; of electra two, in it.

    Raises:
        CheckpointError: it is damaged, Hugging Face has no class for its model, or there is something in config.to already.
    """
    return write_hf(config)


def write_hf(config: ConvertConfig, add: Callable[[Checkpoint, Path, bool], str] | None = None) -> str:
    """Does what `export_hf` does, and has `add` write more into the directory before it is there.

    Args:
        add: takes the checkpoint, the directory, and whether a tokenizer is in it; returns what there is to say.
    """
    assert config.from_ is not None
    assert config.to is not None
    if "://" in config.to:
        raise CheckpointError(f"to = {config.to}: directories of Hugging Face are written to paths: choose one")
    started = time.monotonic()
    found, problems = look_at(config.from_)
    if problems:
        raise CheckpointError(f"{found.where} is damaged: {'; '.join(problems)}: choose another checkpoint")
    exports = _exports(found)
    refuse_unless_fresh(config.to)
    with fresh_directory(config.to) as directory:
        written = [export.write(Path(directory), config) for export in exports]
        added = [] if add is None else [add(found, Path(directory), bool(exports[0].tokens.files))]
        added += [export.verify(Path(directory)) for export in exports] if config.verify else []
    files, num_bytes = sum(one.files for one in written), sum(one.bytes for one in written)
    classes = " and ".join(export.settings["architectures"][0] for export in exports)
    unset = unset_of(found.run_settings())
    unknown = f"without a tokenizer, which is not known{f': {unset}' if unset else ''}"
    tokens = "with its tokenizer" if exports[0].tokens.files else unknown
    told = f"{_told(config.to, num_bytes, started)}\n{classes}, {files} file{'s' if files > 1 else ''} of weights, {tokens}"
    return "\n".join([told, *added, *_differences(found, classes, exports[0])])


def _differences(found: Checkpoint, classes: str, export: "_Export") -> Iterator[str]:
    """Yields what the model learned that the classes of Hugging Face do otherwise."""
    yield from hf_model(model := model_of_checkpoint(found)).differences_of_tokens(export.settings, export.tokens)
    objective = OBJECTIVES.get(found.run_settings().get("objective", {}).get("name", ""))
    if objective is not None and objective.opens_prefix and not model.has_decoder:
        yield (
            f"it learned to read the first tokens of a text both ways, which the format cannot say: {classes} reads each token "
            "from those before it alone, unless it is given a mask"
        )


def _told(to: str, num_bytes: int, started: float) -> str:
    seconds = time.monotonic() - started
    return f"{to}: {num_bytes / 1e6:,.1f} MB in {seconds:.1f} s ({num_bytes / 1e6 / max(seconds, 1e-3):,.0f} MB/s)"


class _Export:
    """A model, or one half of electra, to be written."""

    def __init__(
        self,
        found: Checkpoint,
        half: Half | None,
        entries: list[HFTensor],
        settings: dict[str, Any],
        tokens: CheckpointTokenizer,
        scale: float | None,
        limit: int | None,
    ) -> None:
        """`scale` is that of the adapters, where there are any, `limit` that of positions."""
        self._scale, self._limit = scale, limit
        self.settings, self.tokens = settings, tokens
        self._found: Checkpoint = found
        self._half: Half | None = half
        theirs = MODELS[settings["model_type"]]
        # The class without heads is saved without the prefix that it has where it is part of another.
        prefix = theirs.prefix if settings["architectures"][0] == theirs.network_class else ""
        self._entries: dict[str, list[HFTensor]] = {}
        for entry in entries:
            self._entries.setdefault(entry.hf.removeprefix(prefix), []).append(entry)

    def write(self, directory: Path, config: ConvertConfig) -> WrittenWeights:
        directory = directory / (self._half or "")
        directory.mkdir(exist_ok=True)
        named = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
        dtype = DTYPES[config.dtype] if config.dtype else named.get(self.settings.get("dtype", ""), torch.float32)
        settings = {**self.settings, "dtype": str(dtype).removeprefix("torch.")}
        (directory / CONFIG_FILE).write_text(
            json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        for name, data in {**self.tokens.exported(self._limit), **generation_files(self._found, settings)}.items():
            (directory / name).write_bytes(data)
        shapes = {name: self._shape(entries[0]) for name, entries in self._entries.items()}
        return write_weights(directory, shapes, self._read, dtype=dtype, limit_bytes=int(config.shard_gb * 1e9))

    def verify(self, directory: Path) -> str:
        """Tells how much the logits of what was written differ from the checkpoint's; refuses more than rounding explains."""
        # Imported here, as it brings Transformers in, which verify=false does without.
        from dist_plm.tasks.convert.verify_export import exported_at, verify_export

        exported = exported_at(directory / (self._half or ""), merged=self._scale is not None)
        return verify_export(self._found, self._half, exported)

    def _shape(self, entry: HFTensor) -> tuple[int, ...]:
        return entry.stored_shape(self._found.weights[entry.name])

    def _read(self, name: str) -> Tensor:
        entries = self._entries[name]
        stored = torch.empty(self._shape(entries[0]), dtype=torch.float32)
        targets = {entry.name: entry.logical(stored) for entry in entries}
        self._found.tensors.read_shards(
            [(checkpoint_name("weight", one), whole(one, tuple(t.shape)), t) for one, t in targets.items()]
        )
        for one, target in targets.items():
            self._add_adapter(one, target)
        if not is_finite(stored):
            raise CheckpointError(
                f"{self._found.where} holds numbers that are not finite, in {name}: its run had diverged; choose an earlier "
                "checkpoint"
            )
        return stored

    def _add_adapter(self, name: str, weight: Tensor) -> None:
        """Adds what an adapter beside a weight has learned: the class has none of its own."""
        stem, _, kind = name.rpartition(".")
        names = [f"{stem}.{part}" for part in ADAPTERS]
        if self._scale is None or kind != "weight" or not all(one in self._found.weights for one in names):
            return
        first, second = (self._found.tensors.read_whole(checkpoint_name("weight", one)) for one in names)
        weight += self._scale * (second @ first)


def _exports(found: Checkpoint) -> list[_Export]:
    """One for each half of electra, else one."""
    model, files = model_of_checkpoint(found), found.train_state.files
    theirs = hf_model(model)
    run = found.run_settings()
    tokens, told = tokens_of(found, run), task_settings(run, found.where)
    exports = []
    for half in theirs.halves_of(model):
        settings = hf_config(model, found.weights, half)
        entries = _entries(found, theirs, model, half)
        if config_name(half) in files:
            given = {name: settings[name] for name in ("model_type", "architectures")}
            settings = given | json.loads(found.storage.read(found.name, config_name(half)))
        else:
            settings |= theirs.token_numbers(tokens) | told
        scale = None if model.lora is None else model.lora.scale
        exports.append(_Export(found, half, entries, settings, tokens, scale, model.position_limit))
    return exports


def _entries(found: Checkpoint, theirs: HFModel, model: ModelConfig, half: Half | None) -> list[HFTensor]:
    complete = theirs.with_all_heads(model)
    entries, shapes = list(theirs.tensors(complete, half)), shapes_of(complete)
    held = found.weights
    missing = [e.name for e in entries if e.name not in held and not e.name.startswith(HEADS)]
    if missing:
        raise CheckpointError(
            f"{found.where} lacks {listed(missing)} of the model that its {MODEL_FILE} or {RUN_FILE} names"
        )
    present = [entry for entry in entries if entry.name in held]
    for entry in present:
        if held[entry.name] != shapes[entry.name]:
            raise CheckpointError(
                f"{found.where}: {entry.name} is {list(held[entry.name])}, where its model makes it "
                f"{list(shapes[entry.name])}"
            )
    return present
