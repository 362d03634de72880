"""Declares the original Transformer (Vaswani et al. 2017)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dist_plm.spec.families.encoder_decoder import EncoderDecoderConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig(EncoderDecoderConfig):
    scales_words: ClassVar[bool] = True
    is_in_hugging_face: ClassVar[bool] = False

    family: Literal["transformer"] = "transformer"
