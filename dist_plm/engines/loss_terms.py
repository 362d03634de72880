"""The parts of the loss as both engines count, scale and add them up."""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.data.loader.batch import Batch
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

    def count(self, microbatches: Sequence[Batch]) -> list[int]:
        """Predictions of each part in the microbatches of all data ranks. Collective."""
        own = [sum(term.count(batch) for batch in microbatches) for term in self._losses.values()]
        counts = torch.tensor(own, dtype=torch.int64, device=self._device)
        dist.all_reduce(counts, group=self._groups.data)
        return counts.tolist()

    def scales(self, counts: Sequence[int], factor: float) -> list[float]:
        """Gives the factor of each part's sum: its weight over its number of predictions, times `factor`."""
        return [factor * term.weight / max(n, 1) for term, n in zip(self._losses.values(), counts, strict=True)]

    def of(self, scores: Scores, scales: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Computes what is minimised, and sums of loss and correct labels of each part, [parts, 2] fp64."""
        terms = [scores[term.over] for term in self._losses.values()]
        loss = torch.stack([term.loss * scale for term, scale in zip(terms, scales, strict=True)]).sum()
        losses = torch.stack([term.loss.detach() for term in terms]).double()
        correct = [term.correct if term.correct is not None else torch.zeros_like(term.loss) for term in terms]
        return poisoned_if_not_finite(loss), torch.stack([losses, torch.stack(correct).double()], dim=1)

    def add_up(self, sums: Iterable[Tensor], counts: Sequence[int]) -> EvalSums:
        """The sums of microbatches over all ranks. Collective."""
        total = torch.zeros(len(counts), 2, dtype=torch.float64, device=self._device)
        for one in sums:
            total += one
        # Tensor ranks hold copies of the same sums, stages before the last hold none.
        dist.all_reduce(total, group=self._groups.world)
        total /= self._groups.grid.tensor
        return {
            name: TermSums(loss=loss, correct=int(correct), count=count)
            for name, (loss, correct), count in zip(self._losses, total.tolist(), counts, strict=True)
        }

    def minimised(self, sums: EvalSums) -> float:
        """The weighted sum of the parts' means."""
        return sum(term.weight * sums[name].mean for name, term in self._losses.items())
