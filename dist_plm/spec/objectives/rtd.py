"""Declares replaced-token detection."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.config.types import NonNegative
from dist_plm.spec.families.base import Kind
from dist_plm.spec.objectives.masking import MaskingConfig
from dist_plm.spec.objectives.windows import WindowsConfig

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case


@dataclass(frozen=True, kw_only=True)
class RtdConfig(WindowsConfig, MaskingConfig):
    """A generator fills in what is masked, and the model tells which tokens were replaced (ELECTRA, Clark et al. 2020)."""

    body: ClassVar[str] = "rtd"
    learners: ClassVar[tuple[Kind, ...]] = ("discriminator",)
    loss_terms: ClassVar[tuple[str, ...]] = ("generator", "discriminator")

    name: Literal["rtd"] = "rtd"
    discriminator_weight: NonNegative = 50.0  # of its loss beside the generator's

    def problems(self, case: "Case") -> Iterator[str]:
        yield from WindowsConfig.problems(self, case)
        yield from MaskingConfig.problems(self, case)
