"""Declares what models of an encoder and a decoder share."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from dist_plm.config.types import Count
from dist_plm.spec.families.base import Kind, ModelConfig, StackSpec, known

if TYPE_CHECKING:
    from dist_plm.spec.families.tensors import TensorTable
    from dist_plm.spec.objectives import ObjectiveConfig

#: Decoders read sequences of a multiple of this, sequence parallel or not: matrix products of uneven sizes are slow.
LENGTH_MULTIPLE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderDecoderConfig(ModelConfig):
    """An encoder and a decoder. Derived when None: `decoder_layers` = layers."""

    kind: ClassVar[Kind] = "encoder_decoder"
    has_decoder: ClassVar[bool] = True

    decoder_layers: Count | None = None

    @property
    def is_chain(self) -> bool:
        return False

    def stacks(self) -> tuple[StackSpec, ...]:
        """Lists the two; the decoder lies upon its encoder."""
        layers = known(self.decoder_layers, "decoder_layers")
        encoder = StackSpec(prefix="encoder.", network=self, layers=self.layers)
        decoder = StackSpec(prefix="decoder.", network=self, layers=layers, below=encoder.top, is_decoder=True)
        return encoder, decoder

    def add_heads(self, table: "TensorTable") -> None:
        table.output()

    def derive(self, objective: "ObjectiveConfig") -> Self:
        return replace(
            super(EncoderDecoderConfig, self).derive(objective), decoder_layers=self.decoder_layers or self.layers
        )
