"""Which logical tensors the flat tensors of an optimizer are made of.

Engines hand an optimizer shards that cut through parameters, fuse them and pad them. An optimizer that treats each layer
as a whole (LAMB) needs sums over logical tensors, which may lie in several places of several ranks. Engines fill this
description from the layouts of the model; optimizers know nothing else of the process grid.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of elements of a flat tensor that belong to one logical tensor.

    Args:
        slot: number of the logical tensor in `Partition.slots`.
    """

    start: int
    length: int
    slot: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A logical tensor of which this rank may hold a part.

    Args:
        counted: False where another rank of the reductions counts the same elements.
    """

    name: str
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Reduction:
    """Sums that are added over the ranks of `group`: those of the given slots, or of all where None. Each rank of the
    group must list as many slots, in the same order."""

    group: dist.ProcessGroup
    slots: tuple[int, ...] | None = None


class Partition:
    """How the tensors that an optimizer updates on this rank are made of logical tensors.

    Args:
        segments: of each tensor, in ascending order, without overlap. What no segment covers (padding) is never updated.
        reductions: one collective each, in the same order on all ranks.
        device: of the sums.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        segments: Mapping[Tensor, Sequence[Segment]],
        reductions: Sequence[Reduction] = (),
        device: torch.device | None = None,
    ) -> None:
        self.slots = tuple(slots)
        self._device = device
        self._reductions = tuple(reductions)
        self._pieces = {tensor: _pieces(tensor.numel(), found) for tensor, found in segments.items()}

    def views(self, owners: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
        """The segments, as views, of `values`, each of which has as many elements as its owner."""
        found = []
        for owner, value in zip(owners, values, strict=True):
            lengths, kept, _ = self._pieces[owner]
            pieces = value.view(-1).split_with_sizes(lengths)
            found.extend(pieces[index] for index in kept)
        return found

    def slots_of(self, owners: Iterable[Tensor]) -> list[int]:
        """The slot of each view that `views` gives for the same owners."""
        return [slot for owner in owners for slot in self._pieces[owner][2]]

    def sum_squares(self, norms: Tensor, slots: Sequence[int]) -> Tensor:
        """Adds up the squares of partial norms, on this rank and over ranks: one collective for each reduction.

        Every rank of a reduction calls it equally often, be it without segments.

        Args:
            norms: [K, N], K quantities of each of N segments.
            slots: of the N segments.
        Returns:
            [K, N] fp64: for each segment the squared norms of its whole logical tensor.
        """
        rows = torch.tensor(slots, dtype=torch.long, device=self._device)
        counted = torch.tensor([float(slot.counted) for slot in self.slots], dtype=torch.float64, device=self._device)
        sums = torch.zeros(norms.shape[0], len(self.slots), dtype=torch.float64, device=self._device)
        sums.index_add_(1, rows, norms.double().square())
        sums *= counted
        for reduction in self._reductions:
            if reduction.slots is None:
                dist.all_reduce(sums, group=reduction.group)
            else:
                part = sums[:, list(reduction.slots)]
                dist.all_reduce(part, group=reduction.group)
                sums[:, list(reduction.slots)] = part
        return sums[:, rows]


def _pieces(numel: int, segments: Sequence[Segment]) -> tuple[list[int], list[int], list[int]]:
    """Lengths that cut a flat tensor into segments and gaps, which of the pieces are segments, and their slots."""
    lengths: list[int] = []
    kept: list[int] = []
    end = 0
    for segment in segments:
        assert segment.length > 0, f"{segment} is empty"
        assert segment.start >= end, f"{segment} begins before {end}, the end of the one before"
        if segment.start > end:
            lengths.append(segment.start - end)
        kept.append(len(lengths))
        lengths.append(segment.length)
        end = segment.start + segment.length
    assert end <= numel, f"segments end at {end} in a tensor of {numel} elements"
    if end < numel:
        lengths.append(numel - end)
    return lengths, kept, [segment.slot for segment in segments]
