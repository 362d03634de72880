"""From the shard specs of the model and the shards of an optimizer to the logical tensors that each shard is made of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dist_plm.distributed.groups import Groups
from dist_plm.models.sharding import ShardSpec
from dist_plm.optim.segment_map import Reduction, Segment, SegmentMap, Slot


@dataclass(frozen=True, slots=True)
class OptimizerShard:
    """Elements [start, start + length) of a flattened parameter, which an optimizer holds at `offset` of `tensor`."""

    parameter: Tensor
    start: int
    length: int
    tensor: Tensor
    offset: int = 0


class FlatParameters:
    """Where the logical tensors begin and end in the flattened parameters of a rank.

    Taken before an engine wraps the model: ZeRO-3 empties the parameters.
    """

    def __init__(self, shard_specs: Sequence[ShardSpec], groups: Groups) -> None:
        self._groups = groups
        self._slots: list[Slot] = []
        self._tied: list[int] = []
        self._spans: dict[Tensor, list[Segment]] = {}
        for shard_spec in shard_specs:
            self._add(shard_spec)

    def _add(self, shard_spec: ShardSpec) -> None:
        parameter = shard_spec.parameter
        counted = (shard_spec.split_dim is not None or self._groups.tensor.rank() == 0) and not shard_spec.copy
        row = parameter[0].numel() if parameter.dim() > 1 else 1
        spans = self._spans[parameter] = []
        for shard in shard_spec.shards:
            assert shard.size[1:] == tuple(parameter.shape[1:]), f"{shard.name} does not lie in one run of elements"
            slot = len(self._slots)
            box = shard.shape, shard.start, shard.size
            self._slots.append(Slot(shard.name, counted, *box, trained=parameter.requires_grad))
            if getattr(parameter, "shared_embedding", False) and parameter.requires_grad:
                self._tied.append(slot)
            if shard.numel:
                spans.append(Segment(shard.local_start[0] * row, shard.numel, slot))

    def segment_map(self, fragments: Iterable[OptimizerShard], *, sharded: bool, device: torch.device) -> SegmentMap:
        """The description that an optimizer of whole layers is bound to.

        Args:
            sharded: the fragments of the data ranks are different ones; else each data rank holds them all.
        """
        segments: dict[Tensor, list[Segment]] = {}
        for fragment in fragments:
            segments.setdefault(fragment.tensor, []).extend(_cut(self._spans[fragment.parameter], fragment))
        for found in segments.values():
            found.sort(key=lambda segment: segment.start)
        return SegmentMap(self._slots, segments, tuple(self._reductions(sharded)), device)

    def _reductions(self, sharded: bool) -> Iterable[Reduction]:
        groups = self._groups
        if sharded and groups.data_context.size() > 1:
            yield Reduction(groups.data_context)
        if groups.tensor.size() > 1:
            yield Reduction(groups.tensor)
        # After the others: what the copies of a tied weight count is nothing, be it over however many ranks.
        if self._tied and groups.embedding is not None and groups.embedding.size() > 1:
            yield Reduction(groups.embedding, tuple(self._tied))


def _cut(spans: Sequence[Segment], fragment: OptimizerShard) -> Iterable[Segment]:
    """The parts of `spans`, which count from the start of the parameter, that lie in the fragment."""
    stop = fragment.start + fragment.length
    for span in spans:
        first, last = max(span.start, fragment.start), min(span.start + span.length, stop)
        if first < last:
            yield Segment(first - fragment.start + fragment.offset, last - first, span.slot, first - span.start)
