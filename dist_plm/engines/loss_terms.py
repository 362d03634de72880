"""The parts of the loss as both engines count, scale and add them up."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.collectives import all_reduce
from dist_plm.distributed.device import sent
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import EvalSums, StepResult, TermSums
from dist_plm.engines.non_finite_guard import poisoned_if_not_finite
from dist_plm.models.loss_sums import Scores
from dist_plm.objectives.base import LossTerm

#: What losses of microbatches may differ by, relatively, and be as large: those of the same rows round in another way on
#: another grid.
_ALIKE = 1e-5


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
        self._shares = torch.zeros(0, 0, dtype=torch.float64, device=device)

    def count(self, microbatches: Sequence[Batch]) -> Tensor:
        """Counts the predictions of each part in the microbatches of all data ranks, [parts] fp64. Collective."""
        own = [[term.count(batch) for term in self._losses.values()] for batch in microbatches]
        each = torch.tensor(own, dtype=torch.float64)
        weights = torch.tensor([term.weight for term in self._losses.values()], dtype=torch.float64)
        # What each part of a microbatch's own loss weighs, which `add_up` needs.
        both = sent(torch.stack([weights / each.clamp(min=1.0), each]), self._device)
        self._shares, counts = both[0], both[1].sum(dim=0)
        all_reduce(counts, self._groups.data)
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
        """Adds up microbatches over all ranks, and appends the counts, and of each data rank the largest loss of its
        microbatches and which has it: [parts · 3 + data ranks · 2] fp64, for `told` and `result`. Collective."""
        parts = len(counts)
        rows = torch.zeros(parts + self._groups.grid.data, 2, dtype=torch.float64, device=self._device)
        if found := list(sums):
            each = torch.stack(found)  # [microbatches, parts, 2]
            all_reduce(each, self._groups.context)  # of which each has what its tokens lose
            rows[:parts] = each.sum(dim=0)
            losses = (each[:, :, 0] * self._shares).sum(dim=1)
            losses = losses.where(losses.isfinite(), math.inf)
            worst = losses.max()
            first = losses.isclose(worst, rtol=_ALIKE, atol=0.0).int().argmax()
            rows[parts + self._groups.coordinates.data] = torch.stack([worst, first.double()])
        # Tensor and context ranks hold copies of the same sums, stages before the last hold none.
        all_reduce(rows, self._groups.world)
        rows /= self._groups.grid.tensor * self._groups.grid.context
        return torch.cat([torch.cat([rows[:parts], counts[:, None]], dim=1).view(-1), rows[parts:].view(-1)])

    def told(self, numbers: Sequence[float]) -> EvalSums:
        """Names what `add_up` gave, once it was read from the device."""
        told = numbers[: 3 * len(self._losses)]
        rows = zip(told[::3], told[1::3], told[2::3], strict=True)
        return {
            name: TermSums(loss=loss, correct=int(correct), count=int(count))
            for name, (loss, correct, count) in zip(self._losses, rows, strict=True)
        }

    def _worst(self, numbers: Sequence[float]) -> tuple[int, float] | None:
        """Finds the microbatch with the largest loss, infinite where it is not finite, in what `add_up` gave. Microbatches are
        counted through data ranks: all of the first, then all of the second, and so on. Of several the first."""
        told = numbers[3 * len(self._losses) :]
        worst = max(told[::2], default=math.inf)
        places = (rank * len(self._shares) + int(index) for rank, index in enumerate(told[1::2]))
        found = zip(places, told[::2], strict=True)
        return next((one for one in found if math.isclose(one[1], worst, rel_tol=_ALIKE)), None)

    def by_data_rank(self, numbers: Sequence[float]) -> list[float]:
        """Gives the largest loss of a microbatch of each data rank, in what `add_up` gave."""
        return list(numbers[3 * len(self._losses) :][::2])

    def result(self, numbers: Sequence[float], *, grad_norm: float | None, loss_scale: float | None) -> StepResult:
        """Tells of an update whose passes added up to `numbers`, read from the device.

        Args:
            grad_norm: None where it was skipped.
        """
        sums = self.told(numbers)
        return StepResult(
            loss=sum(term.weight * sums[name].mean for name, term in self._losses.items()),
            terms={name: term.mean for name, term in sums.items()},
            num_tokens=next(iter(sums.values())).count,
            grad_norm=grad_norm,
            loss_scale=loss_scale,
            skipped=grad_norm is None,
            worst=self._worst(numbers),
        )
