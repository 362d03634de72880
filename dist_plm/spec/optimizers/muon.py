"""Declares Muon."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from dist_plm.config.types import Count, Fraction, Positive
from dist_plm.spec.optimizers.base import OptimConfig, Shape, is_hidden_matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class MuonConfig(OptimConfig):
    """Muon (Jordan et al. 2024): the momentum of hidden matrices is orthogonalised by Newton-Schulz steps; embeddings, heads,
    norms and biases learn by AdamW, with `betas` and `eps`.

    `update_rms` is the root mean square of an orthogonalised update of full rank, so that one learning rate and one weight
    decay serve both rules (Liu et al. 2025, arXiv 2502.16982, section 2.2)."""

    whole_tensors: ClassVar[bool] = True
    has_two_rules: ClassVar[bool] = True

    name: Literal["muon"] = "muon"
    momentum: Fraction = 0.95
    nesterov: bool = True
    newton_schulz_steps: Count = 5
    update_rms: Positive = 0.2
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: Positive = 1e-8

    def sets_apart(self, name: str, shape: Shape) -> bool:
        return is_hidden_matrix(name, shape)

    def workspace(self, name: str, shape: Shape) -> int:
        """Counts a matrix, which is whole on each rank, an iterate and the next one, and two products of its smaller side."""
        smaller = min(shape)
        return 3 * math.prod(shape) + 2 * smaller**2 if is_hidden_matrix(name, shape) else 0

    def moments(self, name: str, shape: Shape) -> dict[str, Shape]:
        return {"momentum_buffer": shape} if is_hidden_matrix(name, shape) else {"exp_avg": shape, "exp_avg_sq": shape}
