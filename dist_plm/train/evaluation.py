"""Loss, perplexity and accuracy on held-out samples: the same samples every time and on every grid."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.labelled.dataset import LabelledDataset
from dist_plm.data.loader.microbatch_loader import MicrobatchLoader
from dist_plm.data.samples import Arrays
from dist_plm.data.sampling.blend import Dataset
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import Engine, EvalSums, Prediction, TermSums
from dist_plm.objectives.base import IGNORED, LossTerm, Objective
from dist_plm.objectives.tasks.base import Scorer
from dist_plm.spec.schema_run import TrainConfig


@dataclass(frozen=True, slots=True)
class FirstSamples:
    """Collates like the objective, and masks the labels of samples past the first `count`: they only fill the last
    round of microbatches, which differs between grids."""

    collate: Callable[[Any], Arrays]
    losses: Mapping[str, LossTerm]
    count: int

    def __call__(self, windows: Any) -> Arrays:
        batch = self.collate(windows)
        past = windows.samples >= self.count
        marks = {term.mask or term.over: IGNORED if term.mask is None else 0 for term in self.losses.values()}
        for name in marks:
            labels = batch[name]
            mark = labels.dtype.type(marks[name])
            beyond = np.repeat(past, len(labels) // len(past))  # of samples that are read twice
            batch[name] = np.where(beyond.reshape(-1, *[1] * (labels.ndim - 1)), mark, labels)
        return batch


@dataclass(frozen=True, slots=True)
class _NoneBeyond:
    """Reads the last of `count` samples in place of those past them, which a blend may not have.

    Args:
        order: of the samples [count], where it is not that of their numbers.
    """

    dataset: Dataset
    count: int
    order: NDArray[np.int64] | None = None

    @property
    def num_windows(self) -> int:
        return self.count

    def read(self, samples: NDArray[np.int64]) -> Any:
        taken = np.minimum(samples, self.count - 1)
        taken = taken if self.order is None else self.order[taken]
        return replace(self.dataset.read(taken), samples=np.where(samples < self.count, taken, samples))

    def identity(self) -> str:
        return self.dataset.identity()

    def describe(self) -> str:
        return self.dataset.describe()


def whole_run(objective: Objective[Any], num_samples: int | None) -> Callable[[Any], Arrays]:
    """Builds what collates the samples of a run, which may end within a step."""
    if num_samples is None:
        return objective.collate
    return FirstSamples(objective.collate, objective.losses, num_samples)


class TextMeasures(Protocol):
    """Has the model of an engine answer held-out rows."""

    def __call__(self, engine: Engine, between: Callable[[], None]) -> tuple[Mapping[str, float], Mapping[str, Any]]:
        """Gives what is measured of the answers, and files of them as tasks.base.Scorer.predictions does. Collective over all
        ranks, which call `between` equally often."""
        ...


class NamedMeasures(Protocol):
    """Measures the model of an engine on sets that have names."""

    def __call__(self, engine: Engine, between: Callable[[], None]) -> dict[str, float]:
        """Gives measures as NAME/MEASURE. Collective over all ranks, which call `between` equally often."""
        ...


class MoreMeasures(NamedTuple):
    """Holds what an evaluation measures beside the loss, where a run asks for it."""

    texts: TextMeasures | None = None
    named_sets: NamedMeasures | None = None


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Scores held-out samples.

    Args:
        trim: takes padding out of microbatches.
        scorer: makes what measures a task; None where tokens are predicted, and perplexity and accuracy measured.
        keep: writes what a task's model says of the rows (tasks.base.Scorer.predictions), on the rank that does so.
        texts: measures what the model writes; None where it is not asked to.
    """

    train: TrainConfig
    groups: Groups
    dataset: Dataset
    objective: Objective[Any]
    trim: Callable[[Arrays], Arrays] | None = None
    scorer: Callable[[], Scorer] | None = None
    keep: Callable[[Mapping[str, Any]], None] | None = None
    texts: "TextMeasures | None" = None

    def __call__(self, engine: Engine, between: Callable[[], None]) -> dict[str, float]:
        """Collective over all ranks, which call `between` after each microbatch. Returns `loss`, as training minimises
        it, and `perplexity` and `accuracy` of its first part, which predicts tokens. Where it has several parts, also
        `loss/NAME` and `accuracy/NAME` of each, and `perplexity/NAME` of the first."""
        train, pipeline = self.train, self.groups.grid.pipeline
        count = min(train.eval_samples, self.dataset.num_windows)
        # One round keeps every pipeline stage busy with one microbatch, the least that interleaved schedules accept.
        a_round = train.micro_batch * self.groups.grid.data * pipeline
        loader = MicrobatchLoader(
            _NoneBeyond(self.dataset, count, self._order(count)),
            FirstSamples(self.objective.collate, self.objective.losses, count),
            micro_batch=train.micro_batch,
            global_batch=a_round,
            data_rank=self.groups.coordinates.data,
            data_size=self.groups.grid.data,
            start_step=0,
            stop_step=math.ceil(count / a_round),
            num_workers=0,
            prefetch=1,
            pin_memory=False,
            trim=self.trim,
        )
        scorer = None if self.scorer is None else self.scorer()
        sums: EvalSums = {name: TermSums() for name in self.objective.losses}
        microbatches = iter(loader)
        while batch := list(itertools.islice(microbatches, pipeline)):
            if scorer is None:
                step = engine.eval_step(batch)
            else:
                step, predictions = engine.predict_step(batch)
                add_predictions(scorer, predictions, count)
            sums = {name: sums[name] + more for name, more in step.items()}
            between()
        if scorer is None:
            measures = _measures(sums, self.objective.losses)
            if self.texts is not None:
                told, predictions = self.texts(engine, between)
                measures |= told
                if self.keep is not None:
                    self.keep(predictions)
            return measures
        if self.keep is not None:
            self.keep(scorer.predictions())
        return {"loss": _loss(sums, self.objective.losses), **scorer.measures()}

    def _order(self, count: int) -> NDArray[np.int64] | None:
        """Gives the order in which the first `count` samples are read, where rows are trimmed: those of a microbatch that are
        about as long lose most of their padding."""
        if self.trim is None or not isinstance(self.dataset, LabelledDataset):
            return None
        return self.dataset.longest_first(count)


def add_predictions(scorer: Scorer, predictions: Iterable[Prediction], count: int) -> None:
    """Adds what a model says of samples to what measures it, but for those past the first `count`."""
    for prediction in predictions:
        outputs = [output.float().numpy() for output in prediction.outputs.values()]
        each = len(prediction.samples) // len(outputs[0])  # rows of a sample, as of its choices, follow each other
        samples = prediction.samples.numpy()[::each] // each
        mine = samples < count
        if mine.any():
            scorer.add(samples[mine], (outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1))[mine])


def _loss(sums: EvalSums, losses: Mapping[str, LossTerm]) -> float:
    return sum(term.weight * sums[name].mean for name, term in losses.items())


def _measures(sums: EvalSums, losses: Mapping[str, LossTerm]) -> dict[str, float]:
    name, first = next(iter(sums.items()))
    measures = {
        "loss": _loss(sums, losses),
        "perplexity": math.exp(min(first.mean, 700.0)),  # beyond, a float overflows
        "accuracy": first.accuracy,
    }
    if len(sums) > 1:
        measures[f"perplexity/{name}"] = measures["perplexity"]
        measures |= {f"loss/{part}": term.mean for part, term in sums.items()}
        measures |= {f"accuracy/{part}": term.accuracy for part, term in sums.items()}
    return measures
