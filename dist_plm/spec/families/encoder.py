"""Declares what encoders that predict masked tokens share."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from dist_plm.config.types import Count, Natural
from dist_plm.spec.families.base import Kind
from dist_plm.spec.families.windowed import WindowedConfig

if TYPE_CHECKING:
    from dist_plm.spec.families.tensors import Table
    from dist_plm.spec.objectives import ObjectiveConfig
    from dist_plm.spec.schema import PretrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig(WindowedConfig):
    """An encoder. Derived when None: `embedding_size` = hidden."""

    kind: ClassVar[Kind] = "encoder"
    is_encoder: ClassVar[bool] = True
    computes_in_8_bits: ClassVar[bool] = True
    #: Embeddings may be of another size than hidden states.
    projects_embeddings: ClassVar[bool] = False

    embedding_size: Count | None = None
    segments: Natural = 0  # kinds of segments that an embedding tells apart

    def add_heads(self, table: "Table") -> None:
        table.token_head(self)

    def derive(self, objective: "ObjectiveConfig") -> Self:
        derived = super(EncoderConfig, self).derive(objective)
        return replace(derived, embedding_size=self.embedding_size or self.hidden)

    def problems(self, config: "PretrainConfig") -> Iterator[str]:
        yield from super(EncoderConfig, self).problems(config)
        if self.embedding_size != self.hidden and not self.projects_embeddings:
            yield (
                f"model.embedding_size = {self.embedding_size} differs from model.hidden = {self.hidden}, which "
                f"model.family = {self.family!r} does not allow: leave it out, or choose model.family=electra"
            )
