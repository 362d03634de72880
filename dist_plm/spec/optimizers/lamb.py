"""Declares LAMB."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.config.types import Fraction, NonNegative, Positive
from dist_plm.spec.optimizers.base import OptimConfig, Shape

if TYPE_CHECKING:
    from dist_plm.spec.schema import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LambConfig(OptimConfig):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2)."""

    whole_tensors: ClassVar[bool] = True

    name: Literal["lamb"] = "lamb"
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: Positive = 1e-8
    adapt_norms_and_biases: bool = False
    bias_correction: bool = True
    trust_min: NonNegative = 0.0
    trust_max: Positive | None = None
    pre_normalize: bool = False  # gradient / its global norm, where that exceeds 1 (NVLAMB)

    @property
    def clip_threshold(self) -> float:
        """NVLAMB's pre-normalisation is clipping at 1 (NVIDIA DeepLearningExamples, PyTorch/LanguageModeling/BERT, fused
        LAMB's `max_grad_norm`)."""
        return 1.0 if self.pre_normalize else self.clip_norm

    @property
    def adapts_vectors(self) -> bool:
        return self.adapt_norms_and_biases

    def moments(self, name: str, shape: Shape) -> dict[str, Shape]:
        return {"exp_avg": shape, "exp_avg_sq": shape}

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        if self.trust_max is not None and self.trust_min > self.trust_max:
            yield (
                f"optim.trust_min = {self.trust_min:g} exceeds optim.trust_max = {self.trust_max:g}: the trust ratio "
                "lies between them; lower the one or raise the other"
            )
        if self.pre_normalize and self.clip_norm:
            yield (
                f"optim.clip_norm = {self.clip_norm:g} does twice what optim.pre_normalize = true does, which divides "
                "the gradient by its norm where that exceeds 1: set optim.clip_norm=0"
            )
