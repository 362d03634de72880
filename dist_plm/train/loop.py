"""Decides when to step, evaluate, save and stop. Every rank runs it; rank 0 alone has a recorder."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dist_plm.checkpoint.local import LocalCheckpoints
from dist_plm.config.rules import num_microbatches
from dist_plm.config.schema import PretrainConfig
from dist_plm.engines.base import Batch, Engine
from dist_plm.optim.schedules import learning_rate
from dist_plm.train.recorder import Recorder


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything a run is made of, as `train.build` lists it.

    Args:
        batches: this rank's microbatches from a given step on.
        evaluate: scores the held-out samples; None where evaluation is off.
        recorder: on rank 0, None elsewhere.
    """

    config: PretrainConfig
    engine: Engine
    batches: Callable[[int], Iterator[Batch]]
    evaluate: Callable[[Engine], dict[str, float]] | None
    checkpoints: LocalCheckpoints
    recorder: Recorder | None


def train(parts: Parts, first_step: int) -> None:
    """Runs from `first_step` updates already made to train.stop_at (or train.steps)."""
    config = parts.config.train
    stop = config.stop_at or config.steps
    if first_step == 0:
        _evaluate(parts, 0)
    if first_step >= stop:
        return
    microbatches = parts.batches(first_step)
    count = num_microbatches(parts.config)
    for step in range(first_step + 1, stop + 1):
        _make_step(parts, step, itertools.islice(microbatches, count), last=step == stop)


def _make_step(parts: Parts, step: int, microbatches: Iterator[Batch], *, last: bool) -> None:
    config, recorder = parts.config, parts.recorder
    if recorder is not None:
        recorder.begin_step()
    lr = learning_rate(config.schedule, step=step - 1, steps=config.train.steps, peak=config.optim.lr)
    result = parts.engine.train_step(list(microbatches), lr)
    record = recorder.end_step(step, result, lr) if recorder is not None else None
    if last or _is_due(step, config.train.eval_every):
        _evaluate(parts, step)
    if recorder is not None and record is not None:
        recorder.flush(record, force=last)
    if (last and config.checkpoint.at_end) or _is_due(step, config.checkpoint.every):
        parts.checkpoints.save(step, parts.engine.state_dict())


def _evaluate(parts: Parts, step: int) -> None:
    if parts.evaluate is None:
        return
    values = parts.evaluate(parts.engine)
    if parts.recorder is not None:
        parts.recorder.note_evaluation(step, values)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
