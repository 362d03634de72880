"""Makes the optimizer that a configuration names, over whatever tensors an engine hands it."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dist_plm.optim.adafactor import Adafactor
from dist_plm.optim.lamb import Lamb
from dist_plm.spec.schema import OptimConfig

#: Optimizers that look at whole logical tensors, and are told by `bind` where these lie.
LAYER_WISE = (Lamb, Adafactor)


def build_optimizer(optim: OptimConfig, groups: Sequence[dict[str, Any]]) -> Optimizer:
    """The optimizer over `groups`, which carry their own weight decay (`optim.groups.parameter_groups`).

    The group dictionaries become the optimizer's own: what an engine later changes in them, the optimizer sees.
    """
    return _MAKERS[optim.name](optim, groups)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Sets the rate of the next update; a group takes its own share of it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def fill_state(optimizer: Optimizer, parameters: Iterable[Tensor] | None = None) -> None:
    """Makes the state exist before the first step, so that a checkpoint can be loaded into it.

    Args:
        parameters: whose; of all parameter groups where None.
    """
    if parameters is None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if isinstance(optimizer, Adafactor):
        optimizer.fill(parameters)
        return
    names = MOMENTS[type(optimizer).__name__.lower()]
    for parameter in parameters:
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for name in names:
                state[name] = torch.zeros_like(parameter)


def moments_of(optimizer: Optimizer, dims: int) -> tuple[str, ...]:
    """What the optimizer remembers of every element of a parameter of so many dims."""
    if isinstance(optimizer, Adafactor):
        return () if dims == 2 else ("exp_avg_sq",)
    return MOMENTS[type(optimizer).__name__.lower()]


#: What each other optimizer remembers of every element of a parameter, by the name of its class in lower case.
MOMENTS: dict[str, tuple[str, ...]] = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "adam": ("exp_avg", "exp_avg_sq"),
    "lamb": ("exp_avg", "exp_avg_sq"),
    "sgd": ("momentum_buffer",),
}


def _adamw(optim: OptimConfig, groups: Sequence[dict[str, Any]]) -> Optimizer:
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def _adam(optim: OptimConfig, groups: Sequence[dict[str, Any]]) -> Optimizer:
    return torch.optim.Adam(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def _lamb(optim: OptimConfig, groups: Sequence[dict[str, Any]]) -> Optimizer:
    return Lamb(
        groups,
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        bias_correction=optim.bias_correction,
        trust_ratio=(optim.trust_min, math.inf if optim.trust_max is None else optim.trust_max),
    )


def _adafactor(optim: OptimConfig, groups: Sequence[dict[str, Any]]) -> Optimizer:
    return Adafactor(
        groups,
        lr=optim.lr,
        eps=optim.eps,
        min_scale=optim.min_scale,
        beta2_decay=optim.beta2_decay,
        update_clip=optim.update_clip,
        scale_parameter=optim.scale_parameter,
    )


def _sgd(optim: OptimConfig, groups: Sequence[dict[str, Any]]) -> Optimizer:
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, foreach=True)


_MAKERS = {"adamw": _adamw, "adam": _adam, "lamb": _lamb, "sgd": _sgd, "adafactor": _adafactor}
