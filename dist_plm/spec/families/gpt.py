"""Declares GPT (Radford et al. 2019; Brown et al. 2020) and, by its settings, Llama (Touvron et al. 2023)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.spec.families.base import Head, Kind
from dist_plm.spec.families.windowed import WindowedConfig

if TYPE_CHECKING:
    from dist_plm.spec.families.tensors import TensorTable


@dataclass(frozen=True, slots=True, kw_only=True)
class GPTConfig(WindowedConfig):
    kind: ClassVar[Kind] = "decoder"
    possible_heads: ClassVar[tuple[Head, ...]] = ("language_model", "sequence")

    family: Literal["gpt"] = "gpt"

    @property
    def ends_with_norm(self) -> bool:
        return True

    def add_heads(self, table: "TensorTable") -> None:
        table.output()

    def add_task_head(self, table: "TensorTable") -> None:
        """Adds scores of the last token, without a bias."""
        depth = self.top + 1
        table.linear("head.output", self.num_labels, self.hidden, depth=depth, bias=False, multiplies="sample")
