"""The parts of the loss as both engines count, scale and add them up."""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.device import sent
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import EvalSums, TermSums
from dist_plm.engines.non_finite_guard import poisoned_if_not_finite
from dist_plm.models.loss_sums import Scores
from dist_plm.objectives.base import LossTerm


class LossTerms:
    """Each part of the loss is divided by its own number of predictions in the global batch, so that has to be known
    before the backward pass.

    Args:
        losses: the parts by name, as the objective tells them.
    """

    def __init__(self, losses: Mapping[str, LossTerm], groups: Groups, device: torch.device) -> None:
        self._losses, self._groups, self._device = losses, groups, device
        weights = [term.weight for term in losses.values()]
        self._weights = torch.tensor(weights, dtype=torch.float64, device=device)

    def count(self, microbatches: Sequence[Batch]) -> Tensor:
        """Counts the predictions of each part in the microbatches of all data ranks, [parts] fp64. Collective."""
        own = [sum(term.count(batch) for batch in microbatches) for term in self._losses.values()]
        counts = sent(torch.tensor(own, dtype=torch.float64), self._device)
        dist.all_reduce(counts, group=self._groups.data)
        return counts

    def scales(self, counts: Tensor, factor: float) -> Tensor:
        """Gives the factor of each part's sum: its weight over its number of predictions, times `factor`."""
        return (self._weights * factor / counts.clamp(min=1.0)).float()

    def of(self, scores: Scores, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Computes what is minimised, and sums of loss and correct labels of each part, [parts, 2] fp64."""
        terms = [scores[term.over] for term in self._losses.values()]
        losses = torch.stack([term.loss for term in terms])
        correct = [term.correct if term.correct is not None else torch.zeros_like(term.loss) for term in terms]
        sums = torch.stack([losses.detach().double(), torch.stack(correct).double()], dim=1)
        return poisoned_if_not_finite((losses * scales).sum()), sums

    def add_up(self, sums: Iterable[Tensor], counts: Tensor) -> Tensor:
        """Adds up microbatches over all ranks, and appends the counts: [parts · 3] fp64, for `told`. Collective."""
        total = torch.zeros(len(counts), 2, dtype=torch.float64, device=self._device)
        for one in sums:
            total += one
        # Tensor ranks hold copies of the same sums, stages before the last hold none.
        dist.all_reduce(total, group=self._groups.world)
        total /= self._groups.grid.tensor
        return torch.cat([total, counts[:, None]], dim=1).view(-1)

    def told(self, numbers: Sequence[float]) -> EvalSums:
        """Names what `add_up` gave, once it was read from the device."""
        rows = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
        return {
            name: TermSums(loss=loss, correct=int(correct), count=int(count))
            for name, (loss, correct, count) in zip(self._losses, rows, strict=True)
        }

    def minimised(self, sums: EvalSums) -> float:
        """The weighted sum of the parts' means."""
        return sum(term.weight * sums[name].mean for name, term in self._losses.items())
