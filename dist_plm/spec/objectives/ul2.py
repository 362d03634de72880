"""Declares UL2's mixture of denoisers (Tay et al. 2022, arXiv 2205.05131), with the arithmetic of its lengths."""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dist_plm.config.bounds import at_least
from dist_plm.config.decode import show
from dist_plm.config.types import Positive
from dist_plm.spec.families.base import Kind
from dist_plm.spec.objectives.base import TokensConfig
from dist_plm.spec.objectives.masking import MaskRate
from dist_plm.spec.objectives.span import SpanCounts, unplaced_targets

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case

Paradigm = Literal["R", "S", "X"]
#: What goes before an input, where the tokenizer has these tokens: those of the published models.
PARADIGM_TOKENS: dict[Paradigm, str] = {"R": "[NLU]", "S": "[S2S]", "X": "[NLG]"}
#: At a higher rate the longest targets of a sequential denoiser would be longer than the text.
MOST_SEQUENTIAL = 0.5
LEAST_WINDOW = 2
_MOST_WINDOWS = 64  # of the input's length


@dataclass(frozen=True, slots=True)
class Ul2Input:
    """Holds what stands around the text.

    Args:
        length: of the model's input.
        marks: paradigm tokens before it, 0 or 1.
        has_decoder: targets are written by a decoder of its own, else they follow the input in its row.
    """

    length: int
    marks: int = 0
    has_decoder: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiserConfig:
    """One way to corrupt text. R and X replace spans of `mean_span` tokens, S takes away the end of the text."""

    paradigm: Paradigm
    mask_rate: MaskRate  # share of the tokens that is predicted, of S on average
    mean_span: Annotated[float, at_least(1)] | None = None  # tokens; None for S, which has one span
    weight: Positive = 1.0  # in the mixture

    def counts(self, window: int) -> SpanCounts:
        """Returns how windows of `window` tokens are divided into spans."""
        assert self.mean_span is not None
        return SpanCounts.of(window, self.mask_rate, self.mean_span)

    def suffixes(self, window: int, frame: Ul2Input) -> tuple[int, int]:
        """Returns the fewest and the most tokens that S takes away: as far from the mean as the input's length allows."""
        mean = max(1, round(window * self.mask_rate))
        least = max(1, window + frame.marks + 1 - frame.length) if frame.has_decoder else 1
        return least, min(2 * mean - least, window - 1)

    def fits(self, window: int, frame: Ul2Input) -> bool:
        """Tells whether the corrupted form of a window has room."""
        if self.paradigm == "S":
            least, most = self.suffixes(window, frame)
            return least <= most and (frame.has_decoder or frame.marks + window <= frame.length + 1)
        counts = self.counts(window)
        if frame.has_decoder:
            return frame.marks + counts.inputs <= frame.length
        return frame.marks + counts.inputs + counts.targets <= frame.length + 1

    def targets(self, window: int, frame: Ul2Input) -> tuple[float, int]:
        """Returns how many tokens a decoder of its own writes, on average and at most."""
        if self.paradigm == "S":
            least, most = self.suffixes(window, frame)
            return (least + most) / 2 + 1, most + 1
        return self.counts(window).targets, self.counts(window).targets


def _denoiser(paradigm: Paradigm, mask_rate: float, mean_span: float | None = None) -> DenoiserConfig:
    return DenoiserConfig(paradigm=paradigm, mask_rate=mask_rate, mean_span=mean_span)


#: Table 1 of the paper.
SEVEN = (
    _denoiser("R", 0.15, 3.0),
    _denoiser("R", 0.15, 8.0),
    _denoiser("S", 0.25),
    _denoiser("X", 0.5, 3.0),
    _denoiser("X", 0.5, 8.0),
    _denoiser("X", 0.15, 64.0),
    _denoiser("X", 0.5, 64.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ul2Config(TokensConfig):
    """Each sample is corrupted by one of several denoisers: short spans (R), the end of the text (S), long or many spans (X).

    `paradigm_tokens` begin an input by its denoiser: [NLU], [S2S] or [NLG]. None means where the tokenizer has them."""

    body: ClassVar[str] = "ul2"
    learners: ClassVar[tuple[Kind, ...]] = ("decoder", "encoder_decoder")
    loss_terms: ClassVar[tuple[str, ...]] = ("ul2",)
    special_tokens: ClassVar[tuple[str, ...]] = ("eos",)
    least_length: ClassVar[int] = 8
    opens_prefix: ClassVar[bool] = True

    name: Literal["ul2"] = "ul2"
    denoisers: tuple[DenoiserConfig, ...] = SEVEN
    paradigm_tokens: bool | None = None

    def window_length(self, frame: Ul2Input) -> int:
        """Returns the most tokens of text whose form has room whichever denoiser corrupts it, or 1 where none has."""
        windows = range(LEAST_WINDOW, _MOST_WINDOWS * frame.length)
        return 1 + bisect_left(
            windows, True, key=lambda window: not all(one.fits(window, frame) for one in self.denoisers)
        )

    def longest_written(self, frame: Ul2Input) -> int:
        """Returns the most tokens that a decoder of its own writes."""
        window = self.window_length(frame)
        return max(one.targets(window, frame)[1] for one in self.denoisers)

    def longest_target(self, sequence_length: int) -> int | None:
        """Returns the most tokens that a decoder of its own writes, with and without paradigm tokens where it is not said; None
        where the denoisers are to be refused."""
        if not self.denoisers or any(one.paradigm != "S" and one.mean_span is None for one in self.denoisers):
            return None
        marks = (0, 1) if self.paradigm_tokens is None else (int(self.paradigm_tokens),)
        return max(self.longest_written(Ul2Input(sequence_length, number)) for number in marks)

    def target_length(self, sequence_length: int) -> int | None:
        """Returns the length that a decoder writes on average."""
        frame = Ul2Input(sequence_length)
        window, total = self.window_length(frame), sum(one.weight for one in self.denoisers)
        return round(sum(one.weight * one.targets(window, frame)[0] for one in self.denoisers) / total)

    def problems(self, case: "Case") -> Iterator[str]:
        yield from unplaced_targets(self, case)
        if not self.denoisers:
            yield "objective.denoisers is empty: name at least one, or leave it out for those of the paper"
        for i, one in enumerate(self.denoisers):
            key = f"objective.denoisers[{i}]"
            if one.paradigm != "S" and one.mean_span is None:
                yield f"{key}.mean_span is missing: a denoiser of paradigm {one.paradigm} has spans, give their mean length"
            elif one.paradigm == "S" and one.mean_span is not None:
                yield (
                    f"{key}.mean_span = {show(one.mean_span)} has no effect with paradigm S, whose one span ends the text: "
                    "leave it out"
                )
            if one.paradigm == "S" and one.mask_rate > MOST_SEQUENTIAL:
                yield (
                    f"{key}.mask_rate = {show(one.mask_rate)} is too high for paradigm S, whose targets are up to twice as "
                    f"long as on average: give {MOST_SEQUENTIAL:g} or less"
                )
