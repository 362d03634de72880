"""Checks that it is clear where checkpoints go, which of them stay, and by what, and that each run has its own."""

import math
import os
from collections.abc import Callable, Iterable, Iterator

from dist_plm.config.decode import show
from dist_plm.config.suggest import did_you_mean, near
from dist_plm.spec.derived import checkpoints_of, directory_of
from dist_plm.spec.rules.paths import path_problems
from dist_plm.spec.rules.training import no_effect
from dist_plm.spec.schema import RunConfig, TrainingConfig
from dist_plm.spec.schema_run import CheckpointConfig, TrainConfig


def _keep_best(config: TrainingConfig) -> Iterator[str]:
    settings, train = config.checkpoint, config.train
    if settings.keep_best is None:
        yield from no_effect(settings, "checkpoint", ("best_is",), "checkpoint.keep_best = null")
        return
    named = f"checkpoint.keep_best = {show(settings.keep_best)}"
    known = config.measured
    if settings.keep_best not in known:
        meant = near(settings.keep_best.removeprefix("eval/"), known)
        learned = config.objective.told + config.objective.told_of_measures
        yield f"{named} is no measure of {learned}{did_you_mean(meant)}; it has {', '.join(known)}"
    if train.eval_samples == 0:
        yield (
            f"{named} has nothing to go by with train.eval_samples = 0: give train.eval_samples, or set "
            "checkpoint.keep_best=null"
        )
    elif train.eval_every == 0 or settings.every == 0:
        yield (
            f"{named} has one checkpoint to choose from, the last, with train.eval_every = {train.eval_every} and "
            f"checkpoint.every = {settings.every}: give both, or set checkpoint.keep_best=null"
        )
    elif (meeting := math.lcm(train.eval_every, settings.every)) > _end(train, settings, meeting):
        yield (
            f"{named}: steps are evaluated every train.eval_every = {train.eval_every} and saved every checkpoint.every = "
            f"{settings.every}, both for the first time at step {meeting}, after the end: make one a multiple of the other"
        )


def _end(train: TrainConfig, settings: CheckpointConfig, meeting: int) -> int:
    """The step by which the two have to meet. Where `stop_at` alone ends a run before it, its end is measured and saved."""
    return train.steps if meeting in (train.eval_every, settings.every) else train.stop_at or train.steps


def _place(config: TrainingConfig) -> Iterator[str]:
    yield from path_problems("checkpoint.dir", config.checkpoint.dir, url="write", made=True)


CHECKPOINT_RULES: tuple[Callable[[TrainingConfig], Iterator[str]], ...] = (_keep_best, _place)


def shared_directories(runs: Iterable[tuple[RunConfig, CheckpointConfig]]) -> Iterator[str]:
    """Finds directories that several runs of a sweep would write into, destroying each other's run."""
    seen: set[str] = set()
    for run, checkpoint in runs:
        run_dir, checkpoints = _real(directory_of(run)), _real(checkpoints_of(run, checkpoint))
        if run_dir in seen:
            yield f"run.dir = {show(directory_of(run))} would be of several runs: give each its own run.name"
        elif checkpoints in seen:
            yield (
                f"checkpoint.dir = {show(checkpoints_of(run, checkpoint))} would be of several runs, each going on from the "
                "others' checkpoints: give each its own, or leave it out"
            )
        seen |= {run_dir, checkpoints}


def _real(place: str) -> str:
    """Names a directory alike however it is written, and a URL without the slash at its end."""
    return place.rstrip("/") if "://" in place else os.path.realpath(place)
