"""Declares learning to write one text after another: summaries, translations, answers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.config.types import Prose
from dist_plm.spec.families.base import Kind
from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.tasks.base import Column, WritingConfig
from dist_plm.spec.tasks.targets import TargetsConfig

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(WritingConfig, TargetsConfig):
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
    prefix: Prose = ""
    suffix: Prose | None = None
    prefix_lm: bool = False

    @property
    def reads_prefix_both_ways(self) -> bool:
        return self.prefix_lm

    def problems(self, case: "Case") -> Iterator[str]:
        yield from super().problems(case)
        model = case.config.model
        if model.has_decoder:
            reason = f"model.family = {model.family!r}, whose encoder does so"
            yield from no_effect(self, "task", ("prefix_lm",), reason)
