"""Declares RoBERTa (Liu et al. 2019)."""

from dataclasses import dataclass
from typing import Literal

from dist_plm.spec.families.encoder import EncoderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RobertaConfig(EncoderConfig):
    family: Literal["roberta"] = "roberta"
