"""Declares RoBERTa (Liu et al. 2019)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dist_plm.spec.families.encoder import EncoderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RobertaConfig(EncoderConfig):
    objectives: ClassVar[tuple[str, ...]] = ("mlm",)

    family: Literal["roberta"] = "roberta"
