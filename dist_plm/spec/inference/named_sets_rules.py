"""Checks what a run of pretraining measures at evaluations, and by what it ends early."""

from collections.abc import Iterator

from dist_plm.config.decode import show
from dist_plm.config.suggest import did_you_mean, near
from dist_plm.spec.inference.rules import MEASURING_RULES, SET_NAME
from dist_plm.spec.inference.schema import asked_of_run
from dist_plm.spec.schema import PretrainConfig


def evaluation_problems(config: PretrainConfig) -> Iterator[str]:
    """Yields a sentence for each thing wrong with evaluations beside that of the validation samples."""
    yield from _sets(config)
    yield from _interval(config)
    yield from _early_stopping(config)


def _sets(config: PretrainConfig) -> Iterator[str]:
    taken = {measure.partition("/")[0] for measure in config.objective.measured} | {"initial"}
    for i, named in enumerate(config.evaluate.tasks):
        key = f"evaluate.tasks[{i}]"
        if not SET_NAME.fullmatch(named.name):
            yield f"{key}.name = {show(named.name)} is not allowed: use letters, digits, and . _ - between them"
        elif named.name in taken:
            yield f"{key}.name = {show(named.name)} is taken, by a measure or another set: give it a name of its own"
        taken.add(named.name)
        asked = asked_of_run(named, config.train.micro_batch)
        yield from (f"{key}: {problem}" for rule in MEASURING_RULES for problem in rule(asked))


def _interval(config: PretrainConfig) -> Iterator[str]:
    every, train = config.evaluate.every, config.train
    if not config.evaluate.tasks:
        if every is not None:
            yield f"evaluate.every = {every} has no effect without evaluate.tasks: leave it at null"
        return
    if train.eval_samples == 0:
        yield "evaluate.tasks are measured at evaluations, which train.eval_samples = 0 turns off: give train.eval_samples"
    if every is not None and (train.eval_every == 0 or every % train.eval_every):
        yield (
            f"evaluate.every = {every} is no multiple of train.eval_every = {train.eval_every}, at which steps are evaluated: "
            "make it one, or leave it at null"
        )


def _early_stopping(config: PretrainConfig) -> Iterator[str]:
    asked, train, known = config.train.early_stopping, config.train, config.measured
    if asked is None:
        return
    if train.eval_samples == 0 or train.eval_every == 0:
        yield (
            f"train.early_stopping has nothing to go by with train.eval_every = {train.eval_every} and train.eval_samples = "
            f"{train.eval_samples}: give both, or set train.early_stopping=null"
        )
    if asked.metric is not None and asked.metric not in known:
        yield (
            f"train.early_stopping.metric = {show(asked.metric)} is no measure of this run"
            f"{did_you_mean(near(asked.metric.removeprefix('eval/'), known))}; it has {', '.join(known)}"
        )
