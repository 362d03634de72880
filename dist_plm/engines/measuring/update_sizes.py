"""Measures how large the update of a step is beside the weights, of each logical tensor as a whole, under every sharding."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dist_plm.optim.segment_map import SegmentMap
from dist_plm.optim.square_sums import sum_squares


class UpdateSizes:
    """Compares the weights that an optimizer updates with copies from before, which lie in host memory.

    Args:
        tensors: all that the optimizer updates on this rank.
        segment_map: of which logical tensors they are made.
    """

    def __init__(self, tensors: Sequence[Tensor], segment_map: SegmentMap) -> None:
        self._owners = [tensor for tensor in tensors if segment_map.segments_of(tensor)]
        self._map = segment_map

    def copies(self) -> list[Tensor]:
        """Copies the weights as they are."""
        return [view.to("cpu", copy=True) for view in self._views()]

    @torch.no_grad()
    def since(self, before: Sequence[Tensor]) -> dict[str, tuple[float, float]]:
        """Gives sums of squares of the update and of the weights before it, by the logical tensor, of which every rank that
        holds a part learns the whole's. Collective over data, tensor and embedding ranks."""
        segment_map = self._map
        old = [values.to(view.device) for values, view in zip(before, self._views(), strict=True)]
        updates = [view - values for values, view in zip(old, self._views(), strict=True)]
        sums = torch.zeros(2, len(segment_map.slots), dtype=torch.float64, device=segment_map.device)
        own = sum_squares([*updates, *old]).view(2, -1)  # of what this rank holds
        sums.index_add_(1, segment_map.index(segment_map.slots_of(self._owners)), own.to(segment_map.device))
        segment_map.add_over_ranks(sums, segment_map.columns(range(len(segment_map.slots))))
        return {
            slot.name: (update, weight)
            for slot, update, weight in zip(segment_map.slots, *sums.tolist(), strict=True)
            if update or weight  # what is frozen is in no segment
        }

    def _views(self) -> list[Tensor]:
        return self._map.views(self._owners, [owner.detach() for owner in self._owners])
