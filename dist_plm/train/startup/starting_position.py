"""Puts a run where it begins, or goes on."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.distributed as dist

from dist_plm.checkpoint.open_checkpoint import Checkpoint, open_checkpoint
from dist_plm.checkpoint.storage import Storage, name_of
from dist_plm.data.sampling.build_dataset import tokenizer_store
from dist_plm.engines.base import Engine
from dist_plm.models.sharding import ShardSpec
from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.spec.schema import ModelConfig, SamplesConfig
from dist_plm.spec.schema_run import CheckpointConfig, TrainConfig
from dist_plm.train.startup.load_weights import load_weights, of_checkpoint, open_weights
from dist_plm.train.startup.resume import changed_settings, check_stream, init_from, restore
from dist_plm.train.startup.run_position import Position

log = logging.getLogger(__name__)


def starting_position(
    found: Checkpoint | None,
    model: ModelConfig,
    data: SamplesConfig,
    objective: ObjectiveConfig,
    train: TrainConfig,
    checkpoint: CheckpointConfig,
    settings: Mapping[str, Any],
    stream: Mapping[str, Any],
    storage: Storage,
    engine: Engine,
    shard_specs: Sequence[ShardSpec],
    group: dist.ProcessGroup,
) -> Position:
    """Puts the engine into the state that the run goes on from or begins with. Collective.

    Args:
        found: the checkpoint that it goes on from.
        settings: all of the run, to tell which have changed since.
    """
    store = tokenizer_store(data)
    if found is not None:
        if found.is_weights_only:
            load_weights(of_checkpoint(found), model, store, engine, shard_specs, group, seed=train.seed)
            position = Position(history=[{"step": 0, "changes": [f"begun with the weights of {found.where}"]}])
        else:
            history = check_stream(found, model, objective, stream, allow_change=data.allow_change)
            position = restore(found, history, engine, shard_specs, group)
            for change in changed_settings(found, settings):
                log.info("changed since the checkpoint: %s", change)
        if found.storage.url == storage.url:
            position.saved_step = position.step
        return position
    if model.init_from is not None:
        load_weights(open_weights(model.init_from, group), model, store, engine, shard_specs, group, seed=train.seed)
    elif train.init_from is not None:
        verify = checkpoint.verify
        return init_from(train, model, store, storage, engine, shard_specs, group, verify=verify)
    return Position()


def gives_all_weights(found: Checkpoint | None) -> bool:
    """Tells whether a run that goes on from `found` reads every weight of it, or is refused (`restore`), so that none has to be
    drawn."""
    return found is not None and not found.is_weights_only


def restoring(
    storage: Storage, engine: Engine, shard_specs: Sequence[ShardSpec], group: dist.ProcessGroup
) -> Callable[[int], tuple[Position, Mapping[str, Any]]]:
    """Builds what puts the engine into the state of this run's checkpoint of a step, which was verified; see
    `healing.rollback.Restore`."""

    def to(step: int) -> tuple[Position, Mapping[str, Any]]:
        found = open_checkpoint(storage, name_of(step), group, verify=False)
        return restore(found, list(found.train_state.history), engine, shard_specs, group), found.train_state.loop

    return to
