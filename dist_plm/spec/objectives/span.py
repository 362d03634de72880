"""Declares span corruption, with the arithmetic of its lengths."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dist_plm.config.bounds import at_least
from dist_plm.config.decode import show
from dist_plm.spec.families.base import Kind
from dist_plm.spec.objectives.base import ObjectiveConfig, TokensConfig
from dist_plm.spec.objectives.masking import MaskRate

if TYPE_CHECKING:  # it imports the objectives
    from dist_plm.spec.derived import Case


@dataclass(frozen=True, slots=True)
class SpanCounts:
    """How a window of `window` tokens is divided: tokens in `spans` corrupted spans, and the others."""

    window: int
    noise: int
    spans: int

    @classmethod
    def of(cls, window: int, rate: float, mean_span: float) -> "SpanCounts":
        """At least one token is corrupted and one is not, and as many spans are corrupted as are not."""
        noise = min(max(round(window * rate), 1), window - 1)
        spans = min(max(round(noise / mean_span), 1), noise, window - noise)
        return cls(window, noise, spans)

    @property
    def inputs(self) -> int:
        """Encoder length: tokens that stay, a sentinel for each span, end of sequence."""
        return self.window - self.noise + self.spans + 1

    @property
    def targets(self) -> int:
        """Decoder length: corrupted tokens, a sentinel before each span, end of sequence."""
        return self.noise + self.spans + 1


def longest_window(sequence_length: int, rate: float, mean_span: float) -> int:
    """The most tokens whose corrupted form still fits an encoder length of `sequence_length` >= 3. It fills that length
    exactly, unless the rate is so high and spans so short that no text is left between them."""
    end = sequence_length

    def is_too_long(window: int) -> bool:
        return SpanCounts.of(window, rate, mean_span).inputs > sequence_length

    while not is_too_long(end):
        end *= 2
    windows = range(sequence_length, end)
    return windows.start + bisect_left(windows, True, key=is_too_long) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanConfig(TokensConfig):
    """Spans of text give way to sentinels, and the decoder writes what stood there (Raffel et al. 2020, section 3.1.4)."""

    body: ClassVar[str] = "span_corruption"
    learners: ClassVar[tuple[Kind, ...]] = ("encoder_decoder",)
    loss_terms: ClassVar[tuple[str, ...]] = ("span",)
    special_tokens: ClassVar[tuple[str, ...]] = ("eos", "pad")
    least_length: ClassVar[int] = 4

    name: Literal["span"] = "span"
    mask_rate: MaskRate = 0.15  # share of the tokens that is predicted
    mean_span: Annotated[float, at_least(1)] = 3.0  # tokens

    def counts(self, window: int) -> SpanCounts:
        """Returns how windows of `window` tokens are divided."""
        return SpanCounts.of(window, self.mask_rate, self.mean_span)

    def window_length(self, sequence_length: int) -> int:
        """Returns the tokens of text whose corrupted form fills an encoder length of `sequence_length`."""
        return longest_window(sequence_length, self.mask_rate, self.mean_span)

    def target_length(self, sequence_length: int) -> int | None:
        return self.counts(self.window_length(sequence_length)).targets

    def problems(self, case: "Case") -> Iterator[str]:
        yield from super(SpanConfig, self).problems(case)
        yield from unplaced_targets(self, case)


def unplaced_targets(objective: ObjectiveConfig, case: "Case") -> Iterator[str]:
    """Yields a sentence where a decoder writes more tokens than its table of positions has places for."""
    model, length = case.config.model, case.config.data.sequence_length
    written, limit = objective.longest_target(length), model.position_limit
    if model.has_decoder and limit and written and length <= limit < written:
        yield (
            f"model.max_positions = {limit} has no places for the {written} tokens that the decoder writes at most with "
            f"objective.name = {show(objective.name)} and data.sequence_length = {length}: raise it to {written}, leave "
            "it out, or corrupt less"
        )
