"""Declares the settings of masking, which several objectives share."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dist_plm.config.bounds import Bounds
from dist_plm.config.decode import show
from dist_plm.config.types import Count, Share
from dist_plm.spec.objectives.base import ObjectiveConfig
from dist_plm.spec.rules.sections import no_effect

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case

MaskRate = Annotated[float, Bounds(low=0, high=1, low_open=True, high_open=True)]


@dataclass(frozen=True, kw_only=True)
class MaskingConfig(ObjectiveConfig):
    """An objective that masks tokens, whole words, or spans of words whose numbers are geometrically distributed (SpanBERT,
    Joshi et al. 2020)."""

    special_tokens: ClassVar[tuple[str, ...]] = ("mask",)
    least_length: ClassVar[int] = 4

    mask_rate: MaskRate = 0.15  # share of the tokens that is predicted
    mask_units: Literal["tokens", "words", "spans"] = "tokens"  # what is masked as one
    span_p: Annotated[float, Bounds(low=0, high=1, low_open=True)] = 0.2
    span_longest: Count = 10
    word_segmenter: Literal["jieba"] | None = None  # finds the words of Chinese, which a vocabulary does not mark

    @property
    def split(self) -> tuple[float, float, float]:
        """Shares of the masked tokens that become [MASK], become a random token, and stay as they are."""
        return (1.0, 0.0, 0.0)

    @property
    def predicted_share(self) -> float:
        return self.mask_rate

    def problems(self, case: "Case") -> Iterator[str]:
        if self.mask_units != "spans":
            reason = f"objective.mask_units = {self.mask_units!r}"
            yield from no_effect(self, "objective", ("span_p", "span_longest"), reason)
        if self.mask_units == "tokens":
            yield from no_effect(self, "objective", ("word_segmenter",), "objective.mask_units = 'tokens'")


@dataclass(frozen=True, kw_only=True)
class SplitMaskingConfig(MaskingConfig):
    """Masking that replaces only a share of the masked tokens by [MASK] (Devlin et al. 2019, section 3.1)."""

    mask_split: tuple[Share, Share, Share] = (0.8, 0.1, 0.1)

    @property
    def split(self) -> tuple[float, float, float]:
        return self.mask_split

    def problems(self, case: "Case") -> Iterator[str]:
        yield from MaskingConfig.problems(self, case)
        if abs(sum(self.mask_split) - 1) > 1e-6:
            yield (
                f"objective.mask_split = {show(self.mask_split)} sums to {sum(self.mask_split):g}: the shares that become "
                "[MASK], become a random token, and stay must make 1 together"
            )
