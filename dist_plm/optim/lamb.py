"""LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2), exact wherever its tensors are sharded.

The trust ratio of a layer is a quotient of two norms over the whole of it. Flattened and sharded optimizer states hold
fragments of layers; computed on those, the ratio is wrong and training differs without a word (DeepSpeed issues 88, 490,
1285). Here squares are summed over the segments of a logical tensor and then over ranks, before any weight moves.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from dist_plm.optim.base import WholeTensorOptimizer
from dist_plm.optim.segment_map import SegmentMap, factors_for
from dist_plm.spec.optimizers.lamb import LambConfig

#: The functions that PyTorch's own optimizers are made of, which it does not export.
_torch: Any = torch
#: A number of steps after which no bias is left to correct, for any decay rate below 1 that fp32 can tell from 1.
_UNBIASED_STEPS = 1e30


@dataclass(slots=True)
class _Update:
    """Holds the update of one parameter group. `directions` are r + λw, before trust ratio and learning rate."""

    group: dict[str, Any]
    parameters: list[Tensor]
    directions: list[Tensor]


class Lamb(WholeTensorOptimizer):
    """Update w ← w - lr · φ · (r + λ w) with r = m̂ / (√v̂ + ε) and φ = ‖w‖ / ‖r + λ w‖, 1 where either norm is 0.

    Args:
        groups: parameter groups; `adapt` False fixes φ at 1, as the published BERT code does for biases and norms
            (google-research/albert lamb_optimizer.py, `exclude_from_layer_adaptation`). The paper adapts all of them.
        weight_decay: λ; acts where a group does not bring its own.
        bias_correction: False leaves the moments as they are, m̂ = m and v̂ = v, which a long warm-up makes up for (the
            paper's appendix E, "adam-correction").
        trust_ratio: bounds of φ. The paper bounds ‖w‖ in its place (its φ of section 3); DeepSpeed's FusedLamb bounds
            the ratio, [0.01, 10] by default.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        bias_correction: bool = True,
        trust_ratio: tuple[float, float] = (0.0, math.inf),
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": True}
        super().__init__(groups, defaults)
        self.bias_correction = bias_correction
        self.trust_ratio = trust_ratio
        self._segment_map: SegmentMap | None = None

    def bind(self, segment_map: SegmentMap) -> None:
        """Tells what the tensors of the parameter groups are made of. Before the first step."""
        self._segment_map = segment_map

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient. Collective over the ranks of the segment map's reductions.

        No weight moves before all norms are known: norms are of the weights before the update.
        """
        assert closure is None, "LAMB takes no closure"
        updates = [self._direct(group) for group in self.param_groups]
        self._apply_adapted([update for update in updates if update.group["adapt"]])
        for update in updates:
            if not update.group["adapt"] and update.parameters:
                _torch._foreach_add_(update.parameters, update.directions, alpha=-update.group["lr"])

    def _direct(self, group: dict[str, Any]) -> _Update:
        """Moves the moments and computes r + λ w.

        PyTorch's fused Adam does it in one pass over memory: it subtracts lr · r from what it is given, which here is
        λ w instead of w, with lr = -1.
        """
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return _Update(group, [], [])
        states = [self._state_of(parameter) for parameter in parameters]
        steps = [state["step"] for state in states]
        _torch._foreach_add_(steps, 1.0)
        if not self.bias_correction:
            steps = [torch.full_like(step, _UNBIASED_STEPS) for step in steps]
        directions = list(_torch._foreach_mul(parameters, group["weight_decay"]))
        _torch._fused_adam_(
            directions,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=-1.0,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
        return _Update(group, parameters, directions)

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state

    def _apply_adapted(self, updates: Sequence[_Update]) -> None:
        segment_map = self._segment_map
        assert segment_map is not None, "LAMB must be bound to its segment map before the first step"
        if not updates:
            return
        weights = [segment_map.views(update.parameters, update.parameters) for update in updates]
        directions = [segment_map.views(update.parameters, update.directions) for update in updates]
        slots = segment_map.slots_of(parameter for update in updates for parameter in update.parameters)
        # A rank may hold nothing but padding, and takes part all the same.
        squares = segment_map.sum_squares(slots, list(chain(*weights)), list(chain(*directions)))
        ratios = self._trust_ratios(*squares).split([len(views) for views in weights])
        for update, views, towards, ratio in zip(updates, weights, directions, ratios, strict=True):
            if views:
                _torch._foreach_addcmul_(views, towards, factors_for(views, ratio * -update.group["lr"]))

    def _trust_ratios(self, weight_squares: Tensor, direction_squares: Tensor) -> Tensor:
        weight, direction = weight_squares.sqrt(), direction_squares.sqrt()
        usable = (weight > 0) & (direction > 0)
        ratio = (weight / torch.where(usable, direction, 1.0)).clamp(*self.trust_ratio)
        return torch.where(usable, ratio, 1.0)


def build(optim: LambConfig, groups: Sequence[dict[str, Any]]) -> Lamb:
    return Lamb(
        groups,
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        bias_correction=optim.bias_correction,
        trust_ratio=(optim.trust_min, math.inf if optim.trust_max is None else optim.trust_max),
    )
