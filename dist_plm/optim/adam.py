"""Builds PyTorch's Adam, and steps without what PyTorch does for its compiler."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.adam import adam

from dist_plm.spec.optimizers.adam import AdamConfig


class FusedAdam(torch.optim.Adam):
    """Updates as its base does, whose `step` imports the compiler, a fifth of all that a rank imports, to end a graph that
    nobody makes."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert closure is None, "losses are computed by the engine"
        for group in self.param_groups:
            lists: tuple[list[Any], ...] = ([], [], [], [], [], [])
            has_complex = self._init_group(group, *lists)
            adam(
                *lists,
                has_complex=has_complex,
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
                decoupled_weight_decay=group["decoupled_weight_decay"],
            )


def build(optim: AdamConfig, groups: Sequence[dict[str, Any]]) -> torch.optim.Adam:
    return FusedAdam(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
