"""Declares low-rank adapters (Hu et al. 2021, LoRA)."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.config.types import Count, Fraction, Positive

#: The linear layers of attention and of the feed-forward half, by the names of their tensors.
Target = Literal["query", "key", "value", "output", "gate", "up", "down"]
#: End the names of an adapter's two tensors.
ADAPTERS = ("lora_a", "lora_b")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Adapters beside the linear layers `targets` of every layer: W x + alpha / rank · B A x, of which B begins at 0. They
    alone are trained, and the head of a task. `dropout` is the share of what A reads that is dropped."""

    rank: Count = 8
    alpha: Positive = 16.0
    dropout: Fraction = 0.0
    targets: tuple[Target, ...] = ("query", "value")

    @property
    def scale(self) -> float:
        """Returns what B A x is multiplied by."""
        return self.alpha / self.rank


def is_adapter(name: str) -> bool:
    """Whether a tensor is an adapter's, by its canonical name."""
    return name.endswith(ADAPTERS)
