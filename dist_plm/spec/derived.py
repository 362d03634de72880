"""Derives what follows from other settings: sizes that are None until derived, and counts that several floors need alike."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dist_plm.spec.families.tensors import tensors_of
from dist_plm.spec.freezing import frozen_tensors
from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.spec.optimizers import OptimConfig
from dist_plm.spec.schema import ModelConfig, ParallelConfig, RunConfig, Training, TrainingConfig
from dist_plm.spec.schema_run import CheckpointConfig, TrainConfig

#: Of a number in a checkpoint: weights as masters, and moments, are fp32.
_CHECKPOINT_NUMBER = 4


@dataclass(frozen=True, slots=True)
class Case:
    """A configuration under check: `config` has its None fields filled in, `given` is what the user wrote."""

    given: TrainingConfig
    config: TrainingConfig
    world_size: int
    vocab_size: int | None


def padded_vocab_size(vocab_size: int, multiple: int, tensor: int) -> int:
    """The smallest multiple of `multiple` x `tensor` that holds `vocab_size` rows: every tensor rank has as many."""
    unit = multiple * tensor
    return -(-vocab_size // unit) * unit


def num_microbatches(train: TrainConfig, parallel: ParallelConfig, batch: int | None = None) -> int:
    """Counts the passes each data rank makes in a step of a finalised run: batch / (micro-batch x data ranks), of the global
    batch or of the given one."""
    assert parallel.data is not None, "parallel.data is None: finalize the configuration first"
    return (batch or train.global_batch) // (train.micro_batch * parallel.data)


def is_due(step: int, every: int) -> bool:
    """Tells whether what is done every so many steps is done after this one; 0: after none."""
    return every > 0 and step % every == 0


def peak_learning_rate(optim: OptimConfig, global_batch: int) -> float:
    """Gives `optim.lr`, scaled from `optim.lr_batch` to the global batch: linearly (Goyal et al. 2017, arXiv 1706.02677,
    section 2.1), or with the square root (You et al. 2020, arXiv 1904.00962, section 4.3)."""
    if optim.lr_batch is None:
        return optim.lr
    ratio = global_batch / optim.lr_batch
    return optim.lr * (ratio if optim.lr_scaling == "linear" else ratio**0.5)


def model_ranks(parallel: ParallelConfig) -> int:
    """Ranks that hold one copy of the model between them."""
    return parallel.tensor * parallel.pipeline * parallel.context * parallel.expert


def directory_of(run: RunConfig) -> str:
    """Gives the directory of a run, be it written out or named."""
    return run.dir or os.path.join(run.root, run.name)


def checkpoints_of(run: RunConfig, checkpoint: CheckpointConfig) -> str:
    """Gives the path or URL of a run's checkpoints."""
    return checkpoint.dir or os.path.join(directory_of(run), "checkpoints")


def checkpoint_bytes(model: ModelConfig, optim: OptimConfig, freeze: Iterable[str]) -> int:
    """Counts the bytes of a checkpoint: each weight once, and what the optimizer remembers of those that are trained.

    Args:
        freeze: the parts of `model`, which is finalised, that are not.
    """
    tensors, frozen = tensors_of(model), frozen_tensors(model, freeze)
    trained = [one for one in tensors if one.name not in frozen]
    moments = [moment for one in trained for moment in optim.moments(one.name, one.shape).values()]
    return _CHECKPOINT_NUMBER * sum(math.prod(shape) for shape in (*(one.shape for one in tensors), *moments))


def most_checkpoints(checkpoint: CheckpointConfig, steps: int) -> int:
    """Counts the checkpoints of a run of so many steps that may lie beside each other: while one is written, those that stay
    are still there."""
    if not checkpoint.every:
        return int(checkpoint.at_end)
    kept = steps // checkpoint.keep_every if checkpoint.keep_every else 0
    return checkpoint.keep + 1 + kept + (checkpoint.keep_best is not None)


def derive(config: Training, *, world_size: int, vocab_size: int | None) -> Training:
    """`config` with every None that has a rule for it filled in, unchecked: remainders of divisions are dropped."""
    data = config.parallel.data or max(1, world_size // model_ranks(config.parallel))
    return replace(
        config,
        run=replace(config.run, dir=directory_of(config.run)),
        model=_derive_model(config.model, vocab_size, config.data.sequence_length, config.objective),
        parallel=replace(config.parallel, data=data),
        train=config.train.fitted(data, config.parallel.pipeline),
    )


def _derive_model(
    model: ModelConfig, vocab_size: int | None, sequence_length: int, objective: ObjectiveConfig
) -> ModelConfig:
    return replace(
        model.derive(objective),
        vocab_size=_vocab_size(model, vocab_size),
        max_positions=model.max_positions or _positions(model, sequence_length, objective),
    )


def _positions(model: ModelConfig, sequence_length: int, objective: ObjectiveConfig) -> int:
    """Counts the places of the longest sequence that the model reads, which may be what its decoder writes."""
    if not (model.has_decoder and model.has_position_table):
        return sequence_length
    return max(sequence_length, objective.longest_target(sequence_length) or 0)


def _vocab_size(model: ModelConfig, of_data: int | None) -> int | None:
    """Gives the size of the model's vocabulary, which grows to that of the data where it may."""
    if model.new_rows is not None and model.vocab_size and of_data:
        return max(model.vocab_size, of_data)
    return model.vocab_size or of_data
