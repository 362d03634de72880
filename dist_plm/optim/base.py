"""Builds the optimizer that a configuration names, and makes its state exist before the first step."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dist_plm.config.extending.bodies import build_from
from dist_plm.optim.segment_map import SegmentMap
from dist_plm.spec.optimizers import OptimConfig


class WholeTensorOptimizer(Optimizer):
    """Looks at whole logical tensors: the base of optimizers whose section says `whole_tensors`."""

    def bind(self, segment_map: SegmentMap) -> None:
        """Tells what the tensors of the parameter groups are made of. Before the first step."""
        raise NotImplementedError

    def shared_moments(self, slot: int) -> dict[str, Tensor]:
        """Returns the moments of logical tensor `slot` that each rank with a part of it holds whole, as views."""
        return {}

    def fill(self, parameters: Iterable[Tensor]) -> bool:
        """Makes the state of parameters exist; False where that of every other optimizer serves."""
        return False


def build_optimizer(optim: OptimConfig, groups: Sequence[dict[str, Any]]) -> Optimizer:
    """Returns the optimizer over `groups`, which carry their own weight decay (`optim.param_groups.parameter_groups`).

    The group dictionaries become the optimizer's own: what an engine later changes in them, the optimizer sees.

    Raises:
        ConfigError: it has no body, or none that can be imported and called.
    """
    return build_from(f"optim.name = {optim.name!r}", optim.body_module, optim, groups)


def set_learning_rate(optimizer: Optimizer, lr: float, trained_from: int = 0) -> None:
    """Sets the rate of the next update; a group takes its own share of it, and none below depth `trained_from`: by a rate of
    0 weights stay to the bit, whatever the optimizer."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"] if group.get("depth", trained_from) >= trained_from else 0.0


def fill_state(
    optimizer: Optimizer,
    optim: OptimConfig,
    parameters: Iterable[Tensor] | None = None,
    moments: Callable[[Tensor], Iterable[str]] | None = None,
) -> None:
    """Makes the state exist before the first step, so that a checkpoint can be loaded into it.

    Args:
        optim: what the optimizer was built from.
        parameters: flat ones or whole ones, whose state is made; those of all parameter groups where None.
        moments: names those that a flat parameter has of each element, which may depend on what it is made of; those of any
            vector where None.
    """
    if parameters is None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if isinstance(optimizer, WholeTensorOptimizer) and optimizer.fill(parameters):
        return
    for parameter in parameters:
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for name in optim.element_moments("", (parameter.numel(),)) if moments is None else moments(parameter):
                state[name] = torch.zeros_like(parameter)
