"""Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"), exact wherever matrices are sharded.

The update of a matrix depends on all of it: orthogonalised by parts it is another one. Each rank puts its parts of the
momentum into an empty matrix, and their sum over ranks is the whole; then each takes its parts of the result.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from dist_plm.optim.base import WholeTensorOptimizer
from dist_plm.optim.segment_map import Block, SegmentMap, blocks_of
from dist_plm.spec.optimizers.base import is_hidden_matrix
from dist_plm.spec.optimizers.muon import MuonConfig

#: Of the quintic whose iteration drives singular values towards 1 (Jordan et al. 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
#: A parameter's group, its weights and its direction, flat, and the rectangle of a matrix that they hold.
_Part = tuple[dict[str, Any], Tensor, Tensor, Block]


def orthogonalised(matrix: Tensor, steps: int) -> Tensor:
    """Returns U Vᵀ of a matrix U S Vᵀ [M, N], about: singular values end between 0.7 and 1.2, small ones below.

    Newton-Schulz steps X ← a X + (b A + c A²) X with A = X Xᵀ, of the matrix divided by its Frobenius norm.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.double().norm().clamp(min=1e-12).to(x.dtype)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(WholeTensorOptimizer):
    """Update w ← w - lr · (r √max(M, N) · O + λ w) of matrices [M, N] of groups that are `apart`, where O is what Newton-Schulz
    steps make of m = μ m + (1 - μ) g, with Nesterov's look ahead of (1 - μ) g + μ m. All else is updated by AdamW.

    Args:
        update_rms: r, since O of full rank has the root mean square 1 / √max(M, N).
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        steps: int,
        update_rms: float,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "apart": False})
        self._momentum, self._nesterov, self._steps, self._rms = momentum, nesterov, steps, update_rms
        self._betas, self._eps = betas, eps
        self._segment_map: SegmentMap | None = None

    def bind(self, segment_map: SegmentMap) -> None:
        self._segment_map = segment_map
        self._blocks: dict[Tensor, list[Block]] = {}
        self._touched: dict[tuple[int, ...], list[int]] = {}

    def fill(self, parameters: Iterable[Tensor]) -> bool:
        # Told by what they are made of: the flat tensors of ZeRO-3 are in no parameter group between updates.
        assert self._segment_map is not None
        for parameter in parameters:
            for segment in self._segment_map.segments_of(parameter)[:1]:
                slot = self._segment_map.slots[segment.slot]
                self._state_of(parameter, apart=is_hidden_matrix(slot.name, slot.shape))
        return True

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient. Collective over the ranks of the segment map's reductions."""
        assert closure is None, "Muon takes no closure"
        apart: list[tuple[dict[str, Any], Tensor]] = []
        for group in self.param_groups:
            if group["apart"]:
                apart += [(group, parameter) for parameter in group["params"]]
            elif updated := [parameter for parameter in group["params"] if parameter.grad is not None]:
                self._adamw(group, updated)
        self._update_matrices(apart)

    def _update_matrices(self, held: Sequence[tuple[dict[str, Any], Tensor]]) -> None:
        assert self._segment_map is not None, "Muon must be bound to its segment map before the first step"
        parts: dict[int, list[_Part]] = {}
        for group, parameter in held:
            if parameter.grad is None:
                continue
            direction = self._direction(parameter)
            for block in self._blocks_of(parameter):
                parts.setdefault(block.slot, []).append((group, parameter.data.view(-1), direction, block))
        for slot in self._touched_by([parameter for _, parameter in held]):
            self._update_matrix(slot, parts.get(slot, []))

    def _update_matrix(self, slot: int, here: Sequence[_Part]) -> None:
        assert self._segment_map is not None
        whole = self._segment_map.whole(slot, [(block, direction) for _, _, direction, block in here])
        update = orthogonalised(whole, self._steps).mul_(self._rms * math.sqrt(max(whole.shape)))
        for group, weight, _, block in here:
            values = block.of(weight)
            values.mul_(1.0 - group["lr"] * group["weight_decay"])
            values.sub_(block.within(update).to(values.device, values.dtype), alpha=group["lr"])

    def _touched_by(self, parameters: Sequence[Tensor]) -> list[int]:
        """Returns the matrices that any rank holds parts of among the parameters of this update. Collective the first time:
        to ask the device at every step would be to wait for it.

        An update is told by its parameters, be they with or without gradients: engines update the same groups in the same
        order on all ranks, so that all of them know an update again, or none.
        """
        assert self._segment_map is not None
        key = tuple(map(id, parameters))
        if key not in self._touched:
            blocks = [block for parameter in parameters for block in self._blocks_of(parameter)]
            self._touched[key] = self._segment_map.touched({block.slot for block in blocks})
        return self._touched[key]

    def _direction(self, parameter: Tensor) -> Tensor:
        """Moves the momentum, and returns what is orthogonalised, flat."""
        assert parameter.grad is not None
        state, gradient = self._state_of(parameter, apart=True), parameter.grad.float().view(-1)
        state["step"] += 1
        momentum = state["momentum_buffer"].view(-1)
        momentum.lerp_(gradient, 1.0 - self._momentum)
        return torch.lerp(gradient, momentum, self._momentum) if self._nesterov else momentum

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        states = [self._state_of(parameter, apart=False) for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=self._eps,
            maximize=False,
        )

    def _state_of(self, parameter: Tensor, *, apart: bool) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for name in ("momentum_buffer",) if apart else ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter)
        return state

    def _blocks_of(self, parameter: Tensor) -> list[Block]:
        """The rectangles of matrices that a flat tensor holds."""
        assert self._segment_map is not None
        if parameter not in self._blocks:
            slots = self._segment_map.slots
            segments = self._segment_map.segments_of(parameter)
            self._blocks[parameter] = [b for segment in segments for b in blocks_of(segment, slots[segment.slot])]
        return self._blocks[parameter]


def build(optim: MuonConfig, groups: Sequence[dict[str, Any]]) -> Muon:
    return Muon(
        groups,
        lr=optim.lr,
        momentum=optim.momentum,
        nesterov=optim.nesterov,
        steps=optim.newton_schulz_steps,
        update_rms=optim.update_rms,
        betas=optim.betas,
        eps=optim.eps,
    )
