"""Declares causal language modelling."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.config.decode import show
from dist_plm.config.types import Share
from dist_plm.spec.families.base import Kind
from dist_plm.spec.objectives.base import TokensConfig
from dist_plm.spec.objectives.windows import WindowsConfig
from dist_plm.spec.rules.sections import no_effect

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case


@dataclass(frozen=True, kw_only=True)
class CausalConfig(WindowsConfig, TokensConfig):
    """Every token is predicted from those before it (Radford et al. 2018, equation 1).

    `fim_rate` of the documents are rearranged for fill-in-the-middle, `fim_spm_rate` of them suffix first (Bavarian et al.
    2022)."""

    body: ClassVar[str] = "causal"
    learners: ClassVar[tuple[Kind, ...]] = ("decoder",)
    loss_terms: ClassVar[tuple[str, ...]] = ("causal",)
    predicts_next: ClassVar[bool] = True

    name: Literal["causal"] = "causal"
    fim_rate: Share = 0.0
    fim_spm_rate: Share = 0.5

    @property
    def needed_tokens(self) -> tuple[str, ...]:
        return ("fim_prefix", "fim_suffix", "fim_middle") if self.fim_rate > 0 else ()

    def problems(self, case: "Case") -> Iterator[str]:
        yield from WindowsConfig.problems(self, case)
        if self.fim_rate == 0:
            yield from no_effect(self, "objective", ("fim_spm_rate",), "objective.fim_rate = 0.0")
        elif case.config.data.packing != "concat":
            yield (
                f"objective.fim_rate = {show(self.fim_rate)} rearranges windows of running text, not rows with padding: "
                "set data.packing=concat, or objective.fim_rate=0"
            )
