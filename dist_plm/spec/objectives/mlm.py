"""Declares masked language modelling over windows of text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.spec.families.base import Kind
from dist_plm.spec.objectives.base import TokensConfig
from dist_plm.spec.objectives.masking import SplitMaskingConfig
from dist_plm.spec.objectives.windows import WindowsConfig

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case


@dataclass(frozen=True, kw_only=True)
class MlmConfig(WindowsConfig, SplitMaskingConfig, TokensConfig):
    """Masked tokens are predicted from both sides (Devlin et al. 2019; Liu et al. 2019)."""

    body: ClassVar[str] = "mlm"
    learners: ClassVar[tuple[Kind, ...]] = ("encoder",)
    loss_terms: ClassVar[tuple[str, ...]] = ("mlm",)

    name: Literal["mlm"] = "mlm"

    def problems(self, case: "Case") -> Iterator[str]:
        yield from WindowsConfig.problems(self, case)
        yield from SplitMaskingConfig.problems(self, case)
