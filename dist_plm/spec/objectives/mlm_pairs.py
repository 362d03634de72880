"""Declares masked language modelling over pairs of segments."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dist_plm.config.types import NonNegative, Share
from dist_plm.spec.families.base import Kind
from dist_plm.spec.objectives.base import TokensConfig
from dist_plm.spec.objectives.masking import SplitMaskingConfig


@dataclass(frozen=True, kw_only=True)
class PairsConfig(SplitMaskingConfig, TokensConfig):
    """Masked tokens are predicted, and something about the two segments."""

    body: ClassVar[str] = "mlm_pairs"
    learners: ClassVar[tuple[Kind, ...]] = ("encoder",)
    special_tokens: ClassVar[tuple[str, ...]] = ("mask", "cls", "sep", "pad")
    least_length: ClassVar[int] = 5

    negative_rate: Share = 0.5  # pairs that are random or swapped
    short_rate: Share = 0.1  # pairs cut from less text than fits
    pair_weight: NonNegative = 1.0  # of the pair's loss beside that of masked tokens


@dataclass(frozen=True, kw_only=True)
class MlmNspConfig(PairsConfig):
    """With next-sentence prediction (Devlin et al. 2019, section 3.1)."""

    loss_terms: ClassVar[tuple[str, ...]] = ("mlm", "nsp")
    pairs: ClassVar[Literal["nsp", "sop"] | None] = "nsp"

    name: Literal["mlm_nsp"] = "mlm_nsp"


@dataclass(frozen=True, kw_only=True)
class MlmSopConfig(PairsConfig):
    """With sentence-order prediction (Lan et al. 2020, section 3.1)."""

    loss_terms: ClassVar[tuple[str, ...]] = ("mlm", "sop")
    pairs: ClassVar[Literal["nsp", "sop"] | None] = "sop"

    name: Literal["mlm_sop"] = "mlm_sop"
