"""Declares T5 (Raffel et al. 2020; v1.1 after Shazeer 2020)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.config.types import Count
from dist_plm.spec.families.base import StackSpec, known
from dist_plm.spec.families.encoder_decoder import EncoderDecoderConfig
from dist_plm.spec.rules.sections import no_effect

if TYPE_CHECKING:
    from dist_plm.spec.families.tensors import TensorTable
    from dist_plm.spec.schema import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Config(EncoderDecoderConfig):
    scales_scores: ClassVar[bool] = False  # the scale is in the initial weights of queries
    has_relative_positions: ClassVar[bool] = True

    family: Literal["t5"] = "t5"
    relative_buckets: Count = 32  # with the next, of relative positions
    relative_distance: Count = 128

    @property
    def scales_output(self) -> bool:
        """Whether the output is tied to the embedding, which is not scaled down itself (mesh-tensorflow)."""
        return self.tied_embeddings

    def add_inputs(self, table: "TensorTable", stack: StackSpec) -> None:
        """Adds the stack's table of relative positions."""
        if self.position == "relative":
            shape = self.relative_buckets, self.heads
            table.matrix(f"{stack.prefix}relative.weight", shape, depth=stack.below, split=1)

    def deviation(self, name: str) -> float:
        """Returns the deviation as in mesh-tensorflow: activations keep their size, and queries carry the scale that attention
        leaves out (Raffel et al. 2020; `T5PreTrainedModel._init_weights` of Hugging Face)."""
        head_size, ffn = known(self.head_size, "head_size"), known(self.ffn, "ffn")
        if name in ("embedding.word.weight", "output.weight"):
            return 1.0
        kind = name.split(".")[-2]
        if kind == "query":
            return (self.hidden * head_size) ** -0.5
        if kind == "output":
            return (self.heads * head_size) ** -0.5
        return (ffn if kind == "down" else self.hidden) ** -0.5

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        if self.position != "relative":
            names = ("relative_buckets", "relative_distance")
            yield from no_effect(self, "model", names, f"model.position = {self.position!r}")
        yield from self.size_problems()
        yield from super(T5Config, self).problems(config)

    def size_problems(self) -> Iterator[str]:
        if self.position != "relative":
            return
        if self.relative_buckets < 4:
            yield (
                f"model.relative_buckets = {self.relative_buckets} is too few: an encoder halves them for its two directions, "
                "and half of these are for single distances; give at least 4"
            )
        elif self.relative_distance <= self.relative_buckets // 2:
            # The decoder's, which has all buckets for one direction; those of the encoder are half as many.
            yield (
                f"model.relative_distance = {self.relative_distance} leaves nothing to share the upper half of "
                f"model.relative_buckets = {self.relative_buckets}, as the lower half are for single distances: give at least "
                f"{self.relative_buckets // 2 + 1}"
            )
