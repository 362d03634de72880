"""Declares AdamW and Adam."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.config.types import Fraction, Positive
from dist_plm.spec.optimizers.base import OptimConfig, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamWConfig(OptimConfig):
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101): weight decay beside the gradient."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: Positive = 1e-8

    def moments(self, name: str, shape: Shape) -> dict[str, Shape]:
        return {"exp_avg": shape, "exp_avg_sq": shape}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamConfig(AdamWConfig):
    """Adam (Kingma & Ba 2015, arXiv 1412.6980): weight decay, if any, is added to the gradient."""

    name: Literal["adam"] = "adam"  # pyright: ignore[reportIncompatibleVariableOverride]
