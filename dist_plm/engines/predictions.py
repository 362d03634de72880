"""Collects what a model says of each sample, for measures that no sum over a batch can give."""

from collections.abc import Callable, Sequence

from torch import Tensor

from dist_plm.distributed.collectives import gather
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import Prediction
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
