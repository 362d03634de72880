"""Fills in what a run that is only planned or rehearsed may leave open: a batch that its ranks can divide, and a store."""

import sys
from dataclasses import replace
from typing import TypeVar

from dist_plm.core.streams import tell
from dist_plm.spec.schema import PlanConfig, PretrainConfig, RehearseConfig, TrainingConfig
from dist_plm.spec.schema_finetune import MOST_OF_A_PASS, FinetuneRehearsalConfig

#: A run of some kind that is planned or rehearsed, and stays of its kind.
LeftOpen = TypeVar("LeftOpen", PlanConfig, RehearseConfig, FinetuneRehearsalConfig)

#: Files whose batches are meant for few ranks.
_UNSET = ("train/default.yaml", "train/finetune.yaml")
#: Stands where no store is named, of which nothing is read.
_NO_STORE = "(not named)"


def filled(config: LeftOpen, batch_source: str, world_size: int) -> LeftOpen:
    """Takes a larger global batch, and tells so, where nobody has set one and that of a small run does not divide over the
    ranks: two microbatches for each stage of the pipeline. A run of pretraining needs no store.

    Args:
        batch_source: of train.global_batch.
    """
    if isinstance(config, PretrainConfig) and config.data.path is None and not config.data.blend:
        config = replace(config, data=replace(config.data, path=_NO_STORE))
    batch = _batch(config, world_size)
    if batch is None or not batch_source.endswith(_UNSET):
        return config
    tell(f"train.global_batch = {config.train.global_batch} is that of a small run: {batch} in its place", sys.stderr)
    return replace(config, train=replace(config.train, global_batch=batch))


def _batch(config: TrainingConfig, world_size: int) -> int | None:
    """Gives the batch to take in place of one that the ranks cannot divide; None where they can."""
    train, parallel = config.train, config.parallel
    data = parallel.data or world_size // (parallel.tensor * parallel.pipeline * parallel.context)
    if data == 0 or train.global_batch % ((train.micro_batch or 1) * data * parallel.pipeline) == 0:
        return None
    return 2 * (train.micro_batch or MOST_OF_A_PASS) * data * parallel.pipeline
