"""Finds a step's gradients where they lie in the buffers, in as few pieces as nothing else lies between."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch import Tensor

from dist_plm.engines.megatron.optimizer import gradients_for_norm


class GradientRuns:
    """Gives what a rank counts for the norm, and what it clips. Where the optimizer reads copies of higher precision these are
    new in each step; else they lie where they lay in the first."""

    def __init__(self, chunks: Sequence[DistributedDataParallel], optimizer: MegatronOptimizer) -> None:
        self._optimizer = optimizer
        parameters: list[Any] = [parameter for chunk in chunks for parameter in chunk.params_with_grad]
        self._buffered: list[Tensor] = [parameter.main_grad for parameter in parameters]
        self._in_place = all(one.dtype == torch.float32 for one in self._buffered)
        self._runs: dict[str, list[Tensor]] = {}

    def counted(self) -> list[Tensor]:
        """Gives what no other rank that holds parts of the model counts, once the step's gradients are the optimizer's."""
        return self._runs.get("counted") or self._joined("counted", gradients_for_norm(self._optimizer))

    def held(self) -> list[Tensor]:
        """Gives all that this rank's optimizer reads."""
        return self._runs.get("held") or self._joined("held", self._gradients())

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._optimizer.get_parameters() if parameter.grad is not None]

    def _joined(self, name: str, gradients: list[Tensor]) -> list[Tensor]:
        """As they are, where they do not lie in the buffers."""
        if self._in_place:
            self._in_place = {memory_of(one) for one in gradients} <= {memory_of(one) for one in self._buffered}
        if not self._in_place:
            return gradients
        self._runs[name] = joined(gradients, self._buffered)
        return self._runs[name]


def joined(pieces: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """Joins contiguous pieces of the same memories, [N] each, where none of `others`, of which they are parts, lies between.
    What fills the space between two of them is joined as well."""
    taken = sorted(map(_place, others))
    found: list[tuple[Tensor, int]] = []  # where each begins, and the offset of its end
    for piece in sorted(pieces, key=_place):
        memory, offset, size = _place(piece)
        if found and memory_of(found[-1][0]) == memory:
            begin, end = found[-1]
            _, last, its_size = taken[bisect_left(taken, (memory, offset)) - 1]  # of those that begin before it
            if last + its_size <= end:
                found[-1] = begin, offset + size
                continue
        found.append((piece, offset + size))
    whole = []
    for begin, end in found:
        _, offset, _ = _place(begin)
        whole.append(begin.detach().as_strided((end - offset,), (1,), offset))
    return whole


def memory_of(tensor: Tensor) -> int:
    """Names the memory that a tensor is a part of, which in a rehearsal has no address."""
    return tensor.untyped_storage()._cdata


def _place(tensor: Tensor) -> tuple[int, int, int]:
    return memory_of(tensor), int(tensor.storage_offset()), tensor.numel()
