"""Declares BERT (Devlin et al. 2019), also with norms before each half of a layer (Shoeybi et al. 2019, section 5.3)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from dist_plm.config.decode import show
from dist_plm.spec.families.encoder import EncoderConfig

if TYPE_CHECKING:
    from dist_plm.spec.families.tensors import TensorTable
    from dist_plm.spec.objectives import ObjectiveConfig
    from dist_plm.spec.schema import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig(EncoderConfig):
    """BERT. Derived when None: `pair_head` from the objective."""

    predicts_pairs: ClassVar[bool] = True
    has_pooler: ClassVar[bool] = True

    family: Literal["bert"] = "bert"
    pair_head: bool | None = None  # pooler and classifier of sentence pairs

    def add_heads(self, table: "TensorTable") -> None:
        super(BertConfig, self).add_heads(table)
        if self.pair_head:
            table.linear("pair.pooler", self.hidden, self.hidden, depth=self.top + 1, multiplies="sample")
            table.linear("pair.classifier", 2, self.hidden, depth=self.top + 1, multiplies="sample")

    def derive(self, objective: "ObjectiveConfig") -> Self:
        pair_head = objective.pairs is not None if self.pair_head is None else self.pair_head
        return replace(super(BertConfig, self).derive(objective), pair_head=pair_head)

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        objective, pairs = config.objective, config.objective.pairs is not None
        if self.pair_head != pairs:
            needs = "needs a head for pairs" if pairs else "has no pairs to learn from"
            yield (
                f"model.pair_head = {show(self.pair_head)} does not fit {objective.told}, which {needs}: "
                f"leave it out (model.pair_head=null) to follow the {objective.section}"
            )
        if pairs and self.segments == 1:
            yield (
                f"model.segments = 1 cannot tell the two parts of a pair of {objective.told} apart: set "
                "model.segments=2, or 0 for no embedding of segments"
            )
        yield from super(BertConfig, self).problems(config)
