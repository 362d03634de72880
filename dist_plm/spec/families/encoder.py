"""Declares what encoders that predict masked tokens share."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from dist_plm.config.types import Count, Fraction, Natural
from dist_plm.spec.families.base import Head, Kind
from dist_plm.spec.families.windowed import WindowedConfig

if TYPE_CHECKING:
    from dist_plm.spec.families.tensors import TensorTable
    from dist_plm.spec.objectives import ObjectiveConfig
    from dist_plm.spec.schema import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig(WindowedConfig):
    """An encoder. Derived when None: `embedding_size` = hidden, `classifier_dropout` = hidden_dropout."""

    kind: ClassVar[Kind] = "encoder"
    possible_heads: ClassVar[tuple[Head, ...]] = ("language_model", "sequence", "tokens", "span", "choice")
    is_encoder: ClassVar[bool] = True
    #: Embeddings may be of another size than hidden states.
    projects_embeddings: ClassVar[bool] = False
    #: A head over sequences reads what the pooler of pairs makes of the first token; else it has a dense layer of its own.
    has_pooler: ClassVar[bool] = False
    #: Follows that dense layer.
    head_activation: ClassVar[Literal["tanh", "gelu"]] = "tanh"

    embedding_size: Count | None = None
    segments: Natural = 0  # kinds of segments that an embedding tells apart
    classifier_dropout: Fraction | None = None  # before what scores sequences or tokens

    def add_heads(self, table: "TensorTable") -> None:
        table.token_head(self)

    def add_task_head(self, table: "TensorTable") -> None:
        depth = self.top + 1
        if self.scores_sequences:
            dense = "pair.pooler" if self.has_pooler else "head.dense"
            table.linear(dense, self.hidden, self.hidden, depth=depth, multiplies="sample")
        vectors = "sample" if self.scores_sequences else "read"
        table.linear("head.output", self.num_labels, self.hidden, depth=depth, multiplies=vectors)

    @property
    def head_dropout(self) -> float:
        if self.head in ("language_model", "span"):
            return 0.0
        return self.hidden_dropout if self.classifier_dropout is None else self.classifier_dropout

    def derive(self, objective: "ObjectiveConfig") -> Self:
        derived = super(EncoderConfig, self).derive(objective)
        return replace(derived, embedding_size=self.embedding_size or self.hidden)

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        yield from super(EncoderConfig, self).problems(config)
        if self.embedding_size != self.hidden and not self.projects_embeddings:
            yield (
                f"model.embedding_size = {self.embedding_size} differs from model.hidden = {self.hidden}, which "
                f"model.family = {self.family!r} does not allow: leave it out, or choose model.family=electra"
            )
