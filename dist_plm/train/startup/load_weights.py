"""The weights that a run begins with: of a directory of Hugging Face, or of a checkpoint that holds nothing else."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_plm.checkpoint.finite import finite_alone
from dist_plm.checkpoint.fragments import names_held
from dist_plm.checkpoint.storage import open_storage
from dist_plm.checkpoint.train_state import RUN_FILE
from dist_plm.config.decode import decode, show
from dist_plm.core.errors import CheckpointError, DataError, reason_of
from dist_plm.core.installed import typed, typed_setting
from dist_plm.core.regular import read_regular
from dist_plm.data.store.manifest import NAME as STORE_MANIFEST
from dist_plm.data.store.manifest import read_manifest
from dist_plm.data.tokenizers.tokenizer import Tokenizer
from dist_plm.data.tokenizers.tokenizer_files import main_file, vocabulary_of
from dist_plm.distributed.collectives import gather, on_each, on_first
from dist_plm.interop.hf.base import HEADS, TASK_HEADS, Half, differences
from dist_plm.interop.hf.checkpoint_tokenizer import is_of_tokenizer, tokenizer_files, tokens_of
from dist_plm.interop.hf.config_json import CONFIG_FILE, HALVES
from dist_plm.interop.hf.safetensors_files import listed
from dist_plm.interop.hf.weights import HFWeights, open_hf
from dist_plm.interop.kinds import refuse_own
from dist_plm.interop.new_rows import GrownRows
from dist_plm.models.init import initialize
from dist_plm.models.sharding import ShardSpec
from dist_plm.spec.families.lora import is_adapter
from dist_plm.spec.families.tensors import shapes_of
from dist_plm.spec.schema import ModelConfig
from dist_plm.train.opening.expected_position import resumes_own

if TYPE_CHECKING:  # Megatron-core is half of what looking at weights would import
    from dist_plm.checkpoint.open_checkpoint import Checkpoint
    from dist_plm.engines.base import Engine

log = logging.getLogger(__name__)

#: Begin the names of tensors with a row for each token.
OVER_VOCABULARY = ("embedding.word.", "output.")
#: What a checkpoint that was imported tells its model by.
MODEL_FILE = "model.yaml"


@dataclass(frozen=True, slots=True)
class Weights:
    """Holds weights that a run may begin with.

    Args:
        model: that they are of, where it is known.
        half: of electra, where they are those of one half alone.
        shapes: of the logical tensors that there are.
        absent: begin the names of those that may be missing: they begin as in a new run.
        read: fp32 values shaped like a shard_spec's parameter.
        tokenizer: reads the files of the tokenizer that belongs to them, by name.
    """

    where: str
    model: ModelConfig | None
    half: Half | None
    shapes: Mapping[str, tuple[int, ...]]
    absent: tuple[str, ...]
    read: Callable[[ShardSpec], Tensor]
    tokenizer: Callable[[], Mapping[str, bytes]]


def check_weights(model: ModelConfig, store: str | None, resume: str, checkpoints: str) -> None:
    """Sees to it that a finalised run which begins with the weights at model.init_from can: that they are there, whole, and of
    its model and vocabulary. It reads no weights, only what the files say of them. A run that goes on from a checkpoint
    needs none.

    Args:
        store: of the run's data, whose tokenizer counts.
        resume: train.resume.
        checkpoints: path or URL of the run's own.
    Raises:
        CheckpointError: it cannot.
    """
    path = model.init_from
    if path is None or resume not in ("auto", "none"):
        return
    try:
        refuse_own(path)
        weights = of_hf(open_hf(path))
        _check_model(weights, model)
        check_vocabulary(weights, store)
    except CheckpointError:
        if not resumes_own(resume, open_storage(checkpoints)):
            raise


def open_weights(path: str, group: dist.ProcessGroup) -> Weights:
    """Those of the directory of Hugging Face at `path`. Collective over `group`, all ranks.

    Raises:
        CheckpointError: on every rank; see `interop.hf.weights.open_hf`.
    """
    on_first(group, lambda: refuse_own(path))
    on_first(group, lambda: open_hf(path).check_copies())  # tells what is wrong once
    return of_hf(on_each(group, lambda: open_hf(path)))


def of_hf(weights: HFWeights) -> Weights:
    others = tuple(f"{half}." for half in HALVES if weights.half not in (None, half))
    directories = [Path(weights.where), *(Path(weights.where) / half for half in HALVES)]

    def tokenizer() -> dict[str, bytes]:
        found = tokenizer_files(directories)
        beside = {path.with_name(CONFIG_FILE) for path in found.values()}
        return {path.name: read_regular(path) for path in (*found.values(), *beside) if path.is_file()}

    return Weights(
        weights.where, weights.model, weights.half, weights.shapes, (*HEADS, *others), weights.read, tokenizer
    )


def of_checkpoint(found: "Checkpoint") -> Weights:
    """Loads the weights of a checkpoint without an optimizer: what is missing of its heads begins as in a new run."""

    def tokenizer() -> dict[str, bytes]:
        held = {name: found.storage.read(found.name, name) for name in files if is_of_tokenizer(name)}
        config = f"hf_{CONFIG_FILE}"
        if not held and RUN_FILE in files:
            return dict(tokens_of(found, found.run_settings()).files)
        return held | ({CONFIG_FILE: found.storage.read(found.name, config)} if held and config in files else {})

    files, model = found.train_state.files, None
    if MODEL_FILE in files:
        model = decode(ModelConfig, found.settings(MODEL_FILE), of_before=True)
    return Weights(
        found.where,
        model,
        None,
        found.weights,
        HEADS,
        lambda shard_spec: found.tensors.read(shard_spec, "weight"),
        tokenizer,
    )


def load_weights(
    weights: Weights,
    model: ModelConfig,
    store: str | None,
    engine: "Engine",
    shard_specs: Sequence[ShardSpec],
    group: dist.ProcessGroup,
    *,
    seed: int,
) -> None:
    """Puts weights into a new engine, whose masters get them in fp32; each rank reads its own slices. Collective over
    `group`, all ranks.

    Args:
        model, seed: of the run, from which what the weights lack is drawn.
        store: of the run's data, whose tokenizer counts.
    Raises:
        CheckpointError: on every rank, where they are of another model or vocabulary.
    """
    fresh, left_out = check_fit(weights, model, store, shard_specs, group)
    anew = set(fresh)

    def drawn(shard_spec: ShardSpec) -> Tensor:
        return _drawn(shard_spec, model, seed)

    grown = frozenset(name for name, shape in shapes_of(model).items() if _grows(weights, model, name, shape))
    rows = GrownRows(weights.read, weights.shapes, grown, drawn if model.new_rows == "random" else None)

    def read(shard_spec: ShardSpec, state: str) -> Tensor:
        if state != "weight":
            return torch.zeros(shard_spec.shape, dtype=torch.float32)
        known = anew.isdisjoint(piece.name for piece in shard_spec.shards)
        return rows.read(shard_spec) if known else drawn(shard_spec)

    with finite_alone(read, weights.where, group, "these weights are broken; name others") as looked:
        engine.load_parameter_states(looked)
    log.info("began with the weights of %s", weights.where)
    if grown:
        log.info("with rows for more tokens (model.new_rows=%s): %s", model.new_rows, listed(sorted(grown)))
    if fresh:
        log.info("not in it, and begun anew: %s", listed(fresh, most=20))
    if left_out:
        log.info("left out of it, as nothing here needs it: %s", listed(left_out, most=20))


def check_fit(
    weights: Weights,
    model: ModelConfig,
    store: str | None,
    shard_specs: Sequence[ShardSpec],
    group: dist.ProcessGroup | None,
) -> tuple[list[str], list[str]]:
    """Finds the tensors that begin anew beside these weights, and those of the weights that have no place here. Of the head of
    a task those of another shape begin anew, as its labels are others. Collective over `group`, all ranks; of None, where
    `shard_specs` are the whole model's.

    Raises:
        CheckpointError: on every rank, where the weights are of another model or vocabulary.
    """
    on_first(group, lambda: _check_model(weights, model))
    on_first(group, lambda: check_adapters(weights.where, weights.shapes, model))
    on_first(group, lambda: check_vocabulary(weights, store))
    held = gather(group, names_held(shard_specs, ["weight"]))
    wanted = {name.removeprefix("model."): shape for one in held for name, shape in one.items()}
    others = [name for name, shape in wanted.items() if weights.shapes.get(name, shape) != shape]
    changed = [name for name in others if not _grows(weights, model, name, wanted[name])]
    fresh = [name for name in wanted if name not in weights.shapes]
    fresh += [name for name in changed if name.startswith(TASK_HEADS)]
    left_out = [name for name in weights.shapes if name not in wanted]
    # Below the head of a task of a model that is a pair of networks there is one of them.
    unneeded = HEADS if model.predicts_tokens else (*HEADS, *(f"{half}." for half in HALVES))
    problems = [f"{name} is missing" for name in fresh if not (name.startswith(weights.absent) or is_adapter(name))]
    problems += [f"{name} has no place" for name in left_out if not name.startswith(unneeded)]
    problems += [
        f"{name} is {list(weights.shapes[name])}, here {list(wanted[name])}" for name in changed if name not in fresh
    ]
    if problems:
        raise CheckpointError(f"{weights.where} is of another model than model.*: {listed(problems)}")
    return fresh, left_out


def _grows(weights: Weights, model: ModelConfig, name: str, shape: tuple[int, ...]) -> bool:
    """Tells whether a tensor of the model is one over a vocabulary that has more tokens than the weights."""
    known = weights.shapes.get(name, shape)
    grows = known[1:] == shape[1:] and known[0] < shape[0] == model.vocab_size
    return model.new_rows is not None and name.startswith(OVER_VOCABULARY) and grows


def _drawn(shard_spec: ShardSpec, model: ModelConfig, seed: int) -> Tensor:
    """Draws the values with which a new run begins."""
    fresh = replace(shard_spec, parameter=nn.Parameter(torch.empty(shard_spec.shape, dtype=torch.float32)))
    initialize([fresh], model, seed)
    return fresh.parameter.detach()


def _check_model(weights: Weights, model: ModelConfig) -> None:
    if weights.model is None:
        return
    ours, size = model, weights.model.vocab_size
    if ours.vocab_size is None or (model.new_rows is not None and size is not None and size < ours.vocab_size):
        ours = replace(ours, vocab_size=size)  # None without data
    if found := differences(ours, weights.model, weights.half):
        told = ", ".join(f"model.{name} = {show(ours)} (there {show(theirs)})" for name, ours, theirs in found)
        remedy = " ".join(
            f"model.{name}={theirs if isinstance(theirs, str) else show(theirs)}" for name, _, theirs in found
        )
        raise CheckpointError(
            f"{weights.where} is of another model than this run's: {told}; to begin with it set {remedy}"
        )


def check_adapters(where: str, names: Iterable[str], model: ModelConfig) -> None:
    """Raises CheckpointError where weights of these names have adapters, and a run's model has none."""
    if model.lora is None and any(map(is_adapter, names)):
        raise CheckpointError(
            f"{where} has adapters, and this run has none",
            "give model.lora.* as in that run, or begin with what "
            f"{typed('convert')} {typed_setting('from', where)} to=DIR format=hf writes, by model.init_from=DIR",
        )


def check_vocabulary(weights: Weights, path: str | None) -> None:
    """Raises CheckpointError where the tokenizer beside weights, of any kind, has other tokens than that of a store, or than a
    tokenizer at a path of its own."""
    if path is None or not Path(path).exists() or Path(path) == Path(weights.where):
        return
    is_store = (Path(path) / STORE_MANIFEST).is_file()
    if not is_store and not main_file(Path(path)).is_file():
        return  # a bare Megatron pair, which does not tell its tokenizer
    try:
        theirs = vocabulary_of(weights.tokenizer())
    except (DataError, OSError) as error:
        raise CheckpointError(
            f"the tokenizer beside the weights of {weights.where} cannot be read, so that nothing tells whether they go with "
            f"{path}: {reason_of(error)}"
        ) from error
    of_store = "prepare the data with tokenizer=file and the tokenizer of these weights"
    remedy = of_store if is_store else "leave data.tokenizer out"
    ours = _opened(path).pieces()
    for number, (our, their) in enumerate(zip(ours, theirs or (), strict=False)):
        if our != their and our and their:
            raise CheckpointError(
                f"the weights of {weights.where} were trained on another vocabulary than that of {path}: token {number} is "
                f"{their!r} there and {our!r} here; {remedy}"
            )


def _opened(path: str) -> Tokenizer:
    if not (Path(path) / STORE_MANIFEST).is_file():
        return Tokenizer.load(path)
    record = read_manifest(path).tokenizer
    return Tokenizer.load(Path(path) / record.file, record.end_of_document)
