"""What an engine is: it holds model and optimizer on a process grid, and turns microbatches into an update.

Nothing above this floor knows which engine runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One update.

    Args:
        loss: mean over the predicted tokens of the global batch.
        num_tokens: how many tokens were predicted.
        grad_norm: of the whole model's gradient before clipping; None where the step was skipped.
        loss_scale: None without loss scaling.
        skipped: the gradient was not finite and the weights stayed as they were.
    """

    loss: float
    num_tokens: int
    grad_norm: float | None
    loss_scale: float | None
    skipped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSums:
    """Sums over the labels of some samples: they add up over calls."""

    loss: float = 0.0
    correct: int = 0
    num_tokens: int = 0

    def __add__(self, other: "EvalSums") -> "EvalSums":
        return EvalSums(
            loss=self.loss + other.loss,
            correct=self.correct + other.correct,
            num_tokens=self.num_tokens + other.num_tokens,
        )


class Engine(Protocol):
    def train_step(self, microbatches: Sequence[Batch], lr: float) -> StepResult:
        """Makes one update from this rank's microbatches of a global batch. Collective over all ranks."""
        ...

    def eval_step(self, microbatches: Sequence[Batch]) -> EvalSums:
        """Scores microbatches without an update; the sums are over all ranks' microbatches. Collective."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What this rank must save to continue exactly on the same grid."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
