"""Declares learning to write one text after another: summaries, translations, answers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.config.types import Count
from dist_plm.spec.families.base import Kind
from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.tasks.base import Column, WritingConfig

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(WritingConfig):
    """The tokens of the target are predicted from the source and from those before them.

    An encoder reads the source, where the model has one; else source and target follow each other, and the source is not
    learned. `prefix` and `suffix` are text around each source (T5: "summarize: "); a decoder alone takes a line break for a
    suffix when None. Sources lose their ends beyond data.sequence_length, or what `max_target_length` leaves of it to a decoder
    alone; targets beyond `max_target_length`: as many tokens as the encoder reads, or half of a decoder's, when None.
    `prefix_lm`: a decoder alone reads the source both ways, as after objective=prefix_lm."""

    body: ClassVar[str] = "tasks.seq2seq"
    learners: ClassVar[tuple[Kind, ...]] = ("decoder", "encoder_decoder")
    loss_terms: ClassVar[tuple[str, ...]] = ("seq2seq",)
    columns: ClassVar[Mapping[str, Column]] = {
        "source": Column(("source", "text", "article", "document", "dialogue", "input", "question", "src")),
        "target": Column(("target", "summary", "highlights", "output", "answer", "tgt")),
    }
    answer: ClassVar[str] = "target"
    measures: ClassVar[tuple[str, ...]] = ("perplexity", "accuracy")
    measures_text: ClassVar[bool] = True
    falling: ClassVar[tuple[str, ...]] = ("loss", "perplexity")
    takes_changed_words: ClassVar[bool] = True

    name: Literal["seq2seq"] = "seq2seq"
    prefix: str = ""
    suffix: str | None = None
    max_target_length: Count | None = None
    prefix_lm: bool = False

    @property
    def reads_prefix_both_ways(self) -> bool:
        return self.prefix_lm

    def target_length(self, sequence_length: int) -> int | None:
        return self.max_target_length or sequence_length

    def room_for_target(self, sequence_length: int) -> int:
        """Returns how many tokens of a decoder's row are for the target."""
        return self.max_target_length or sequence_length // 2

    def longest_answer(self, sequence_length: int, *, has_decoder: bool) -> int:
        return (self.target_length if has_decoder else self.room_for_target)(sequence_length) or sequence_length

    def problems(self, case: "Case") -> Iterator[str]:
        model, length = case.config.model, case.config.data.sequence_length
        if model.has_decoder:
            yield from no_effect(
                self, "task", ("prefix_lm",), f"model.family = {model.family!r}, whose encoder does so"
            )
            written = self.target_length(length)
            limit = model.max_positions
            if model.position in ("learned", "sinusoidal") and limit and written and written > limit:
                yield (
                    f"task.max_target_length = {written} exceeds model.max_positions = {limit}, the length of its table of "
                    "positions: lower it, or raise model.max_positions"
                )
        elif self.room_for_target(length) > length - 2:
            yield (
                f"task.max_target_length = {self.max_target_length} leaves no room for the source in data.sequence_length = "
                f"{length}, which holds both: lower the one, or raise the other"
            )
