"""Resuming: what must be as it was when the checkpoint was made, what may differ, and what is restored."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.checkpoint.finite import finite_alone
from dist_plm.checkpoint.open_checkpoint import Checkpoint, find
from dist_plm.checkpoint.storage import Storage
from dist_plm.checkpoint.train_state import MASKS, RUN_FILE
from dist_plm.config import runfile
from dist_plm.config.decode import decode, defaults_of, encode, flatten, show
from dist_plm.core.errors import CheckpointError, ConfigError, count_of
from dist_plm.data.sampling.blend import Dataset
from dist_plm.distributed.collectives import on_first
from dist_plm.engines.base import Engine
from dist_plm.interop.hf.base import differences
from dist_plm.interop.kinds import refuse_foreign
from dist_plm.models.layers.dropout import STREAM_VERSION, draws_masks
from dist_plm.models.sharding import ShardSpec
from dist_plm.spec.families.lora import is_adapter
from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.spec.schema import ModelConfig, SamplesConfig
from dist_plm.spec.schema_run import TrainConfig
from dist_plm.spec.tasks.base import TaskConfig
from dist_plm.train.startup.load_weights import MODEL_FILE, check_adapters, load_weights, of_checkpoint
from dist_plm.train.startup.run_position import Position

log = logging.getLogger(__name__)

#: Settings of a model that another may have without computing anything else: more rows, or more room.
_MAY_GROW = ("vocab_size", "max_positions")
_EARLIER = "its run had diverged: name an earlier checkpoint with train.resume=PATH"


def stream_of(
    data: SamplesConfig, objective: ObjectiveConfig, train: TrainConfig, dataset: Dataset | None
) -> dict[str, Any]:
    """Gives what decides which samples each step sees and what is asked about them, fit for JSON. Without the data
    where `dataset` is None."""
    facts: dict[str, Any] = {} if dataset is None else {"data": dataset.identity()}
    facts |= {
        "data.sequence_length": data.sequence_length,
        "train.seed": train.seed,
        "train.global_batch": train.global_batch,
        MASKS: STREAM_VERSION,
    }
    if train.batch_rampup is not None:
        facts["train.batch_rampup"] = encode(train.batch_rampup)
    if data.skip_samples:
        facts["data.skip_samples"] = [list(one) for one in data.skip_samples]
    return facts | data.stream_settings | _about_samples(objective, encode(objective))


def check_stream(
    found: Checkpoint,
    model: ModelConfig,
    objective: ObjectiveConfig,
    stream: Mapping[str, Any],
    *,
    allow_change: bool,
) -> list[dict[str, Any]]:
    """Gives the history of allowed changes, with one made now.

    Args:
        stream: see `stream_of`; data that are not in it are not compared.
    Raises:
        CheckpointError: the stream is another than the checkpoint's, and data.allow_change (`allow_change`) is off.
    """
    # What this version can be told, and the checkpoint's could not, was as it is by default.
    unsaid = _about_samples(objective, defaults_of(type(objective)))
    saved = {MASKS: 1} | {name: value for name, value in unsaid.items() if name in stream}
    saved |= {
        name: value
        for name, value in found.train_state.stream.items()
        if name in stream or not _says_nothing(name, objective)
    }
    if not draws_masks(model):
        saved[MASKS] = stream[MASKS]
    section = "task" if isinstance(objective, TaskConfig) else "objective"  # in the configuration
    changes = [
        f"{_shown(name, section)}: {saved.get(name)} -> {stream.get(name)}"
        for name in [*saved, *(name for name in stream if name not in saved)]
        if saved.get(name) != stream.get(name)
    ]
    history = list(found.train_state.history)
    if not changes:
        return history
    if not allow_change:
        others = [change for change in changes if not change.startswith(MASKS)]
        if not others:
            raise CheckpointError(
                f"{found.where} was made while dropout drew its masks by another rule ({changes[0]}): go on from it with "
                "the masks of this version with data.allow_change=true, with the version of dist_plm that began the run, "
                "or start anew with train.resume=none"
            )
        raise CheckpointError(
            f"{found.where} was made over another stream of samples ({'; '.join(others)}): give the same data.*, "
            f"{section}.*, train.seed and train.global_batch again, go on over the new stream with "
            "data.allow_change=true, or start anew with train.resume=none"
        )
    log.warning("the stream of samples changes at step %d: %s", found.train_state.step, "; ".join(changes))
    return [*history, {"step": found.train_state.step, "changes": changes}]


def _shown(name: str, section: str) -> str:
    """Gives the setting that a fact of the stream is of: checkpoints hold those of a task as "objective"."""
    return f"{section}.{name.removeprefix('objective.')}" if name.startswith("objective.") else name


def _about_samples(objective: ObjectiveConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Names those settings of an objective that decide what is made of a sample."""
    about = {name: value for name, value in settings.items() if name not in objective.of_loss}
    return flatten({"objective": about})


def _says_nothing(name: str, objective: ObjectiveConfig) -> bool:
    """Tells whether what a checkpoint recorded under `name` does not bear on the samples: data that are not compared, and
    settings of the loss, or of other objectives, which the section held before it had variants."""
    section, _, setting = name.partition(".")
    known = encode(objective).keys() - set(objective.of_loss)
    return name == "data" or (section == "objective" and setting.partition(".")[0] not in known)


def restore(
    found: Checkpoint,
    history: list[dict[str, Any]],
    engine: Engine,
    shard_specs: Sequence[ShardSpec],
    group: dist.ProcessGroup,
) -> Position:
    """Puts the engine into the checkpoint's state. Collective over `group`, all ranks.

    Args:
        history: of allowed changes of the stream, from `check_stream`.
    Raises:
        CheckpointError: on every rank, where the checkpoint is of another model or optimizer.
    """
    train_state = found.train_state
    found.check_model(shard_specs, group)
    with finite_alone(found.read, found.where, group, _EARLIER) as read:
        engine.load_parameter_states(read)
    engine.load_scalars(train_state.engine)
    log.info(
        "resumed from %s: %s, %s",
        found.where,
        count_of(train_state.step, "step"),
        count_of(train_state.samples_seen, "sample"),
    )
    return Position.of(train_state, history)


def init_from(
    train: TrainConfig,
    model: ModelConfig,
    tokenizer: str | None,
    storage: Storage,
    engine: Engine,
    shard_specs: Sequence[ShardSpec],
    group: dist.ProcessGroup,
    *,
    verify: bool,
) -> Position:
    """Puts the engine into the state in which the run at train.init_from left weights and moments; step, schedule and samples
    begin anew. Collective over `group`, all ranks.

    What train.init_optimizer says: "keep" goes on counting the updates by which the moments' bias is corrected, "restart"
    counts them anew over the same moments, "none" begins with empty moments. A model with the head of a task takes the weights
    alone, and a head that the run did not have, or had with other labels, begins anew; so do adapters.

    Args:
        tokenizer: of the run, or the store that tells it.
    Raises:
        CheckpointError: on every rank, where the checkpoint is missing, damaged, of another model or vocabulary, or of an
            optimizer with other moments.
    """
    path, kept = train.init_from, train.init_optimizer
    assert path is not None
    with init_from_remedies(path):
        found = find_at(path, storage, group, verify=verify)
        for other in on_first(group, lambda: model_changes(found, model)):
            log.warning("not as in the run that train.init_from names: %s", other)
        if takes_weights_alone(found, model):
            load_weights(of_checkpoint(found), model, tokenizer, engine, shard_specs, group, seed=train.seed)
            return Position(history=[{"step": 0, "changes": [f"begun with the weights of {found.where}"]}])
        on_first(group, lambda: check_adapters(found.where, found.weights, model))
        found.check_model(shard_specs, group)
        read = partial(_read, found, with_moments=kept != "none")
        with finite_alone(read, found.where, group, _EARLIER) as read:
            engine.load_parameter_states(read)
    if kept != "none":
        engine.load_scalars({**found.train_state.engine} | ({"optimizer_steps": 0} if kept == "restart" else {}))
    told = f"begun with the weights of {found.where} (train.init_optimizer={kept})"
    log.info(told)
    return Position(history=[{"step": 0, "changes": [told]}])


def model_changes(found: Checkpoint, model: ModelConfig) -> list[str]:
    """Tells by which settings a finalised model computes something else with the weights of a checkpoint than they were learned
    for, though their shapes are the same."""
    named = MODEL_FILE if MODEL_FILE in found.train_state.files else RUN_FILE
    if named not in found.train_state.files:
        return []
    settings = found.settings(named)
    try:
        there = decode(ModelConfig, settings if named == MODEL_FILE else settings.get("model", {}), of_before=True)
    except ConfigError:  # of a version with other settings
        return []
    others = [one for one in differences(model, there) if one[0] not in _MAY_GROW]
    if model.lora is not None and there.lora is not None and model.lora.scale != there.lora.scale:
        others.append(("lora.alpha", model.lora.alpha, there.lora.alpha))
    return [f"model.{name} = {show(ours)} (there {show(theirs)})" for name, ours, theirs in others]


def takes_weights_alone(found: Checkpoint, model: ModelConfig) -> bool:
    """Tells whether a run that begins with a checkpoint learns the head of a task, or adapters or rows that are not in it."""
    adds_adapters = model.lora is not None and not any(map(is_adapter, found.weights))
    return adds_adapters or model.new_rows is not None or not model.predicts_tokens


def find_at(path: str, storage: Storage, group: dist.ProcessGroup | None, *, verify: bool) -> Checkpoint:
    """The checkpoint at a path; see `find`. What others wrote is refused with the way in that there is for it."""
    on_first(group, lambda: refuse_foreign(path))
    found = find(path, storage, group, verify=verify)
    if found is None:
        raise CheckpointError(f"{path} holds no checkpoint")
    return found


@contextmanager
def init_from_remedies(path: str) -> Iterator[None]:
    """Tells what is wrong with the checkpoint at train.init_from = `path`, with the remedies of a beginning in place of those
    of resuming."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"train.init_from = {path}: {error.reason}", _remedy(error.remedy)) from None


def _remedy(of_resuming: str | None) -> str | None:
    """Gives for a beginning what serves in place of a remedy of resuming."""
    if of_resuming is None or "train.resume" not in of_resuming:
        return of_resuming
    if of_resuming.startswith("give the same"):
        return (
            "give model.* and optim.* as in that run (model.max_positions too, where the samples become longer), take the "
            "weights alone with train.init_optimizer=none, or name another checkpoint or run"
        )
    if of_resuming == _EARLIER:
        return "its run had diverged: name an earlier checkpoint, or another run, with train.init_from"
    return "name another checkpoint or run with train.init_from"


def _read(found: Checkpoint, shard_spec: ShardSpec, name: str, *, with_moments: bool) -> Tensor:
    return found.read(shard_spec, name) if name == "weight" or with_moments else torch.zeros(shard_spec.shape)


def changed_settings(found: Checkpoint, settings: Mapping[str, Any]) -> list[str]:
    """Tells how a run's settings differ from those that the checkpoint was made with."""
    if RUN_FILE not in found.train_state.files:
        return []
    before, train = found.settings(RUN_FILE), dict(settings["train"])
    if train.get("num_samples") is not None and "train" in before:
        train["steps"] = before["train"].get("steps")  # it follows from the epochs, and from where the run was
    return runfile.changes(before, {**settings, "train": train})
