"""Measures the losses by which a model learns, on held-out samples, as training evaluates them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from dist_plm.core.errors import DataError
from dist_plm.data.loader.batch import Batch
from dist_plm.data.sampling.blend import Dataset
from dist_plm.data.sampling.build_dataset import open_samples
from dist_plm.data.store.splits import refuse_shares
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import Engine, EvalSums, Prediction, TermSums
from dist_plm.engines.predictions import Predictions
from dist_plm.objectives.base import LossTerm, Objective
from dist_plm.objectives.build import build_objective
from dist_plm.spec.inference.schema import EvaluateConfig
from dist_plm.spec.schema import DataConfig, PretrainConfig
from dist_plm.spec.schema_run import TrainConfig
from dist_plm.tasks.evaluate.passages import check_tokens
from dist_plm.tasks.inference.open_model import FoundModel, Session, build_runner, check_heads
from dist_plm.tasks.inference.runner import Runner
from dist_plm.tasks.inference.source import alike
from dist_plm.tasks.inference.vocabulary import Vocabulary
from dist_plm.train.data import form_of, special_tokens
from dist_plm.train.evaluation import Evaluator

#: Begin the names of all weights that some objective predicts with.
_HEADS = ("transform.", "output.", "pair.", "detector.")
_ALL = 2**40


def measure_objective(config: EvaluateConfig, session: Session) -> dict[str, Any]:
    """Measures all windows of the split, or the first `limit` samples; returns what the file of results holds. Collective.

    Raises:
        UserError: on every rank alike.
    """
    run = session.config
    evaluator = objective_evaluator(config, run, session.vocabulary, session.groups)
    dataset, runner = evaluator.dataset, build_runner(session, needed=_HEADS)
    results = evaluator(cast(Engine, RunnerScores(runner, evaluator.objective.losses)), lambda: None)
    return {
        "model": session.source.where,
        "on": config.on,
        "data": dataset.describe(),
        "objective": run.objective.name,
        "sequence_length": run.data.sequence_length,
        "results": {**results, "samples": min(config.limit or _ALL, dataset.num_windows)},
        "samples": [],
    }


def objective_evaluator(
    config: EvaluateConfig, run: PretrainConfig, vocabulary: Vocabulary, groups: Groups
) -> Evaluator:
    """Builds what scores held-out samples by the objective of a finalised run. Collective.

    Raises:
        UserError: on every rank alike, where they cannot be read.
    """
    dataset, learned = held_out_samples(config, run, vocabulary, groups.world)
    train = TrainConfig(steps=1, global_batch=1, micro_batch=config.batch_size, eval_samples=config.limit or _ALL)
    return Evaluator(train, groups, dataset, learned)


def check_held_out(config: EvaluateConfig, found: FoundModel) -> None:
    """Opens held-out samples, in one process that builds no model.

    Raises:
        UserError: they cannot be read, or the model has no head for the losses.
    """
    held_out_samples(config, found.config, found.vocabulary, None)
    check_heads(found, _HEADS)


def held_out_samples(
    config: EvaluateConfig, run: PretrainConfig, vocabulary: Vocabulary, group: dist.ProcessGroup | None
) -> tuple[Dataset, Objective[Any]]:
    """Opens held-out samples for the objective of a finalised run. Collective over `group`, all ranks.

    Raises:
        UserError: on every rank alike, where they cannot be read.
    """
    path, length = config.data.path, run.data.sequence_length
    assert path is not None
    seed = run.train.seed if config.seed is None else config.seed
    alike(group, lambda: refuse_shares(config.data, "shares", [path]))
    if Path(path).is_dir():
        alike(group, lambda: check_tokens(path, vocabulary))
    learned = build_objective(
        run.objective,
        alike(group, lambda: special_tokens(path)),
        seed=seed,
        sequence_length=length,
        has_decoder=run.model.has_decoder,
    )
    data = DataConfig(path=path, sequence_length=length, split=config.data.shares, packing=run.data.packing)
    form = form_of(run.objective, learned, length)
    size = run.model.vocab_size
    dataset = alike(
        group,
        lambda: open_samples(data, config.data.split, form, seed=seed, vocab_size=size),
    )
    if dataset.num_windows == 0:
        raise DataError(f"{path} holds no window of {length:,} tokens in its {config.data.split} split")
    return dataset, learned


@dataclass(frozen=True, slots=True)
class RunnerScores:
    """Scores microbatches as an engine does; it has nothing else of one."""

    runner: Runner
    losses: Mapping[str, LossTerm]

    def eval_step(self, microbatches: Sequence[Batch]) -> EvalSums:
        return self._sums(microbatches, None)

    def predict_step(self, microbatches: Sequence[Batch]) -> tuple[EvalSums, list[Prediction]]:
        predictions = Predictions()
        sums = self._sums(microbatches, predictions)
        return sums, predictions.of_all(self.runner.groups)

    def _sums(self, microbatches: Sequence[Batch], predictions: Predictions | None) -> EvalSums:
        groups = self.runner.groups
        sums = torch.zeros(len(self.losses), 3, dtype=torch.float64)
        for batch in microbatches:
            told = self.runner.scores(batch, [term.over for term in self.losses.values()], predictions)
            counts = [term.count(batch) for term in self.losses.values()]
            sums += torch.tensor([(*one, count) for one, count in zip(told, counts, strict=True)], dtype=torch.float64)
        sums = sums.to(groups.device.torch_device)
        dist.all_reduce(sums, group=groups.data)
        return {
            name: TermSums(loss=loss, correct=int(correct), count=int(count))
            for name, (loss, correct, count) in zip(self.losses, sums.tolist(), strict=True)
        }
