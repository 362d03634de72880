"""Adafactor (Shazeer & Stern 2018, arXiv 1804.04235, algorithms 4 and 5), exact wherever its tensors are sharded.

Of a matrix it remembers means of squared gradients over rows and over columns, in place of every element's. Those means,
and the root mean squares that limit an update, are of whole logical tensors: sums over the rectangles that a rank holds
are added over ranks before anything moves, so that fragments of flat tensors and slices of tensor ranks do not show.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from dist_plm.optim.base import WholeTensorOptimizer
from dist_plm.optim.segment_map import Block, Segment, SegmentMap, blocks_of, factors_for
from dist_plm.spec.optimizers.adafactor import AdafactorConfig

#: The functions that PyTorch's own optimizers are made of, which it does not export.
_torch: Any = torch


@dataclass(slots=True)
class _Held:
    """Holds what this rank updates in one call: a flat weight, its gradient, which becomes the update, and what both are made
    of."""

    group: dict[str, Any]
    weight: Tensor
    gradient: Tensor
    blocks: list[Block]
    vectors: list[Segment]


class Adafactor(WholeTensorOptimizer):
    """Update w ← w - α (û + λ w) with û = u / max(1, RMS(u) / d) and u = g / √v̂; α = lr · max(ε₂, RMS(w)), or lr alone.

    v̂ of a matrix is r cᵀ / mean(r), of a vector every element's own. r, c and v are running means of g² + ε₁ with the decay
    rate 1 - t^(-0.8), which needs no correction of bias (the paper's section 7). There is no first moment. The gradients
    are used up.

    Args:
        eps: ε₁.
        min_scale: ε₂, below which the root mean square of a weight does not count.
        beta2_decay: the 0.8 above.
        update_clip: d (section 6).
        scale_parameter: whether the rate is relative to the size of a weight (section 8).
        weight_decay: λ, relative to the rate like u; acts where a group does not bring its own.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        eps: float = 1e-30,
        min_scale: float = 1e-3,
        beta2_decay: float = 0.8,
        update_clip: float = 1.0,
        scale_parameter: bool = True,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self._eps, self._min_scale, self._beta2_decay = eps, min_scale, beta2_decay
        self._update_clip, self._scale_parameter = update_clip, scale_parameter
        self._segment_map: SegmentMap | None = None

    def bind(self, segment_map: SegmentMap) -> None:
        """Tells what the tensors of the parameter groups are made of. Before the first step.

        Means over rows and columns are held whole by every rank that holds a part of the matrix; they stand behind each
        other in one vector, the rows' of a matrix before its columns'.
        """
        self._segment_map = segment_map
        matrices = [slot.shape if len(slot.shape) == 2 else (0, 0) for slot in segment_map.slots]
        self._starts = [0, *itertools.accumulate(rows + columns for rows, columns in matrices)]
        self._means = nn.Parameter(torch.zeros(self._starts[-1], device=segment_map.device), requires_grad=False)
        # Of each entry of the vector: its slot, how many elements it is the mean of, whether it is a row's.
        slots = self._by_entry([(i, i) for i in range(len(matrices))])
        self._slots = self._on_device(slots)
        self._lengths = self._on_device(self._by_entry([(columns, rows) for rows, columns in matrices]))
        self._is_row = self._on_device(self._by_entry([(1, 0) for _ in matrices])).bool()
        self._num_rows = self._on_device([rows for rows, _ in matrices])
        self._sizes = self._on_device([math.prod(slot.shape) for slot in segment_map.slots])
        # Behind the entries, for each slot whether any rank has a gradient of it.
        self._columns = segment_map.columns([*slots, *range(len(matrices))])
        self._blocks: dict[Tensor, tuple[list[Block], list[Segment]]] = {}
        self.fill()

    def fill(self, parameters: Iterable[Tensor] = ()) -> bool:
        """Makes the state exist. `step` counts the updates of each logical tensor: engines may update group by group."""
        segment_map = self._bound()
        # A key of its own: what it holds is of no single tensor of the parameter groups.
        state = self.state[self._means]
        if not state:
            state["step"] = torch.zeros(len(segment_map.slots), dtype=torch.float32, device=segment_map.device)
        for parameter in parameters:
            self._state_of(parameter)
        return True

    def shared_moments(self, slot: int) -> dict[str, Tensor]:
        if len(self._bound().slots[slot].shape) != 2:
            return {}
        return dict(zip(("exp_avg_sq_row", "exp_avg_sq_col"), self.means(slot), strict=True))

    def means(self, slot: int) -> tuple[Tensor, Tensor]:
        """Gives, of a logical matrix of shape [M, N], the means over each row, [M], and over each column, [N]: views."""
        rows, columns = self._bound().slots[slot].shape
        start = self._starts[slot]
        return self._means.data[start : start + rows], self._means.data[start + rows : start + rows + columns]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient. Collective over the ranks of the segment map's reductions."""
        assert closure is None, "Adafactor takes no closure"
        held = [
            _Held(group, parameter, parameter.grad.float().view(-1), *self._blocks_of(parameter))
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        rates = self._move_means(held)
        self._divide(held, rates)
        self._apply(held)

    def _move_means(self, held: list[_Held]) -> Tensor:
        """Moves r and c of the logical tensors that any rank has gradients of. Returns 1 - the decay rate, by slot."""
        segment_map, state = self._bound(), self.state[self._means]
        entries, count = self._means.numel(), len(segment_map.slots)
        device = held[0].gradient.device if held else segment_map.device
        sums = torch.zeros(entries + count, dtype=torch.float64, device=device)
        touched = set[int]()
        for one in held:
            for block in one.blocks:
                squares = block.of(one.gradient).square()
                rows, columns = self._places(block)
                sums[rows] += squares.sum(1)
                sums[columns] += squares.sum(0)
            touched.update(part.slot for part in (*one.blocks, *one.vectors))
        sums = sums.to(segment_map.device)
        sums[entries:].index_fill_(0, segment_map.index(sorted(touched)), 1.0)
        segment_map.add_over_ranks(sums[None], self._columns)
        updated = sums[entries:] > 0
        state["step"] += updated
        rates = decay_rates(state["step"], self._beta2_decay) * updated
        self._means.lerp_((sums[:entries] / self._lengths + self._eps).float(), rates[self._slots])
        return rates

    def _divide(self, held: list[_Held], rates: Tensor) -> None:
        """Makes u of the gradients, and moves v of vectors on the way."""
        if not held:
            return
        device = held[0].gradient.device
        factors, rates = self._factors().to(device), rates.to(device)
        for one in held:
            for block in one.blocks:
                rows, columns = self._places(block)
                block.of(one.gradient).mul_(factors[rows, None]).mul_(factors[columns])
            for segment in one.vectors:
                here = slice(segment.start, segment.start + segment.length)
                gradient, squares = one.gradient[here], self._state_of(one.weight)["exp_avg_sq"].view(-1)[here]
                squares.lerp_(gradient.square() + self._eps, rates[segment.slot])
                gradient.mul_(squares.rsqrt())

    def _factors(self) -> Tensor:
        """1 / √(r / mean(r)) and 1 / √c: v̂ is the product of both, by which the gradients are divided."""
        total = torch.zeros(len(self._num_rows), dtype=torch.float64, device=self._means.device)
        total.index_add_(0, self._slots, (self._means * self._is_row).double())
        mean = (total / self._num_rows).float()
        return (self._means / torch.where(self._is_row, mean[self._slots], 1.0)).rsqrt()

    def _apply(self, held: list[_Held]) -> None:
        segment_map = self._bound()
        weights = [segment_map.views([one.weight], [one.weight]) for one in held]
        updates = [segment_map.views([one.weight], [one.gradient]) for one in held]
        slots = segment_map.slots_of(one.weight for one in held)
        # A rank may hold nothing but padding, and takes part all the same.
        squares = segment_map.sum_squares(slots, list(chain(*weights)), list(chain(*updates)))
        weight, update = (squares / self._sizes[segment_map.index(slots)]).sqrt()
        scale = weight.clamp(min=self._min_scale) if self._scale_parameter else torch.ones_like(weight)
        share = scale / (update / self._update_clip).clamp(min=1.0)
        sizes = [len(views) for views in weights]
        for one, views, towards, scales, shares in zip(
            held, weights, updates, scale.split(sizes), share.split(sizes), strict=True
        ):
            lr, decay = one.group["lr"], one.group["weight_decay"]
            if views and decay:
                _torch._foreach_mul_(views, factors_for(views, 1.0 - scales * lr * decay))
            if views:
                _torch._foreach_addcmul_(views, towards, factors_for(views, shares * -lr))

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state and self._blocks_of(parameter)[1]:
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state

    def _blocks_of(self, parameter: Tensor) -> tuple[list[Block], list[Segment]]:
        """The rectangles of matrices in a flat tensor, and the runs of vectors."""
        segment_map = self._bound()
        if parameter not in self._blocks:
            segments = segment_map.segments_of(parameter)
            matrices = [segment for segment in segments if len(segment_map.slots[segment.slot].shape) == 2]
            self._blocks[parameter] = (
                [block for segment in matrices for block in blocks_of(segment, segment_map.slots[segment.slot])],
                [segment for segment in segments if len(segment_map.slots[segment.slot].shape) != 2],
            )
        return self._blocks[parameter]

    def _places(self, block: Block) -> tuple[slice, slice]:
        """Where the means over the block's rows stand in the vector of all, and those over its columns."""
        start = self._starts[block.slot]
        columns = start + self._bound().slots[block.slot].shape[0]
        return (
            slice(start + block.row, start + block.row + block.rows),
            slice(columns + block.column, columns + block.column + block.columns),
        )

    def _by_entry(self, values: list[tuple[int, int]]) -> list[int]:
        """For each entry of the vector of means the value of its slot: the first if it is a row's, else the second."""
        shapes = [slot.shape if len(slot.shape) == 2 else (0, 0) for slot in self._bound().slots]
        return [
            value
            for (rows, columns), (a, b) in zip(shapes, values, strict=True)
            for value in rows * [a] + columns * [b]
        ]

    def _on_device(self, values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._bound().device)

    def _bound(self) -> SegmentMap:
        assert self._segment_map is not None, "Adafactor must be bound to its segment map before the first step"
        return self._segment_map


def decay_rates(steps: Tensor, decay: float) -> Tensor:
    """Computes t^-decay of the numbers of updates that logical tensors have had, [N]: from the number alone.

    In fp64, as PyTorch computes fp32 powers of the last few elements of a vector by another routine, which rounds otherwise:
    tied embeddings, that stages of a pipeline hold at other places, would drift apart.
    """
    return steps.double().clamp(min=1.0).pow(-decay).to(steps.dtype)


def build(optim: AdafactorConfig, groups: Sequence[dict[str, Any]]) -> Adafactor:
    return Adafactor(
        groups,
        lr=optim.lr,
        eps=optim.eps,
        min_scale=optim.min_scale,
        beta2_decay=optim.beta2_decay,
        update_clip=optim.update_clip,
        scale_parameter=optim.scale_parameter,
    )
