"""Declares the columns of tasks over one text or a pair of texts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dist_plm.config.types import Prose
from dist_plm.spec.families.base import Kind, ModelConfig
from dist_plm.spec.objectives.base import SampleRows
from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.tasks.base import Column
from dist_plm.spec.tasks.targets import TargetsConfig

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case

#: Pairs of columns, of which the first that a file has counts: GLUE's, and what others call them.
PAIRS: tuple[tuple[str, str], ...] = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("#1 String", "#2 String"),
    ("text_a", "text_b"),
    ("text1", "text2"),
)
TEXT = Column(("text", "sentence", "content", "review", "document", "comment", "tweet", "body"))
LABEL = Column(("label", "labels", "class", "category", "gold_label", "is_duplicate", "Quality", "target", "sentiment"))
NUMBER = Column(("label", "score", "labels", "target", "similarity", "rating"))

#: Tokens of a label or choice that a decoder beside an encoder writes at most, where no setting says it.
USUAL_TOKENS = 64


def texts_and(label: Column) -> Mapping[str, Column]:
    """Returns the columns of a task that reads one text or two, and a label."""
    return {"text": TEXT, "pair": Column((), optional=True), "label": label}


@dataclass(frozen=True, kw_only=True)
class TextsConfig(TargetsConfig):
    """A task over one text or two, which models with an encoder and a decoder learn as text to text (Raffel et al. 2020,
    section 2.4): they say the likeliest of the texts that may be said. `prefix` and `pair_prefix` are text before the first
    and the second text of a row."""

    by_likelihood: ClassVar[tuple[Kind, ...]] = ("encoder_decoder",)
    usual_target_length: ClassVar[int | None] = USUAL_TOKENS
    #: Settings of text to text alone, beside `max_target_length`.
    of_texts: ClassVar[tuple[str, ...]] = ("prefix", "pair_prefix")

    prefix: Prose = ""
    pair_prefix: Prose = ""

    @property
    def num_texts(self) -> int:
        """Counts the texts that may be said of a row, of text to text."""
        raise NotImplementedError

    def rows_of_sample(self, model: ModelConfig) -> SampleRows:
        return SampleRows(written=self.num_texts) if model.kind in self.by_likelihood else super().rows_of_sample(model)

    def problems(self, case: "Case") -> Iterator[str]:
        yield from super().problems(case)
        model = case.config.model
        if model.kind not in self.by_likelihood:
            reason = f"model.family = {model.family!r}, which scores them by a head"
            yield from no_effect(self, "task", self.of_texts, reason)
