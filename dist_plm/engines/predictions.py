"""Runs forward passes alone, for their losses and for what a model says of each sample, which no sum over a batch can give."""

from collections.abc import Callable, Sequence

from torch import Tensor

from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.collectives import gather
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import EvalSums, Prediction
from dist_plm.engines.loss_terms import LossTerms
from dist_plm.models.loss_sums import Scores

#: Takes the numbers of a microbatch's samples, and the scores that the last stage has of them.
Collect = Callable[[Tensor, Scores], None]


class Predictions:
    """Keeps the outputs of microbatches on the host, in the order of their passes."""

    def __init__(self) -> None:
        self._own: list[Prediction] = []

    def __call__(self, samples: Tensor, scores: Scores) -> None:
        outputs = {name: term.outputs.cpu() for name, term in scores.items() if term.outputs is not None}
        self._own.append(Prediction(samples, outputs))

    def of_all(self, groups: Groups) -> list[Prediction]:
        """Gives those of all data ranks on every rank, in the order of data ranks, and so of samples. Collective over all
        ranks."""
        # Tensor and context ranks say the same, and stages before the last have nothing to say.
        place = groups.coordinates
        speaks = groups.is_last_stage and place.tensor == place.context == 0
        told: Sequence[list[Prediction]] = gather(groups.world, self._own if speaks else [])
        return [prediction for one in told for prediction in one]


class Evaluating:
    """The part of an engine that evaluates, by what `_score` makes of microbatches; see engines.base.Engine."""

    _terms: LossTerms
    _groups: Groups

    def eval_step(self, microbatches: Sequence[Batch]) -> EvalSums:
        return self._terms.told(self._score(microbatches, None))

    def predict_step(self, microbatches: Sequence[Batch]) -> tuple[EvalSums, list[Prediction]]:
        predictions = Predictions()
        sums = self._terms.told(self._score(microbatches, predictions))
        return sums, predictions.of_all(self._groups)

    def losses_by_data_rank(self, microbatches: Sequence[Batch]) -> list[float]:
        return self._terms.by_data_rank(self._score(microbatches, None))

    def _score(self, microbatches: Sequence[Batch], collect: Collect | None) -> list[float]:
        """Runs forward passes. Returns sums over all ranks, for `LossTerms.told`. Collective over all ranks."""
        raise NotImplementedError
