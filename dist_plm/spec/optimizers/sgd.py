"""Declares stochastic gradient descent."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dist_plm.config.types import Fraction
from dist_plm.spec.optimizers.base import OptimConfig, Shape

if TYPE_CHECKING:
    from dist_plm.spec.schema import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SgdConfig(OptimConfig):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013)."""

    name: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.0
    nesterov: bool = False

    def moments(self, name: str, shape: Shape) -> dict[str, Shape]:
        return {"momentum_buffer": shape}

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        if self.nesterov and not self.momentum:
            yield "optim.nesterov = true looks ahead along optim.momentum = 0.0: raise the momentum, or set it to false"
