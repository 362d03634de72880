"""Declares multiple choice: which of several endings or answers is right (SWAG, RACE, COPA)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from dist_plm.config.types import Count, Fraction
from dist_plm.core.errors import ConfigError
from dist_plm.spec.families.base import Kind, ModelConfig
from dist_plm.spec.objectives.base import Head, SampleRows
from dist_plm.spec.tasks.base import Column
from dist_plm.spec.tasks.targets import TargetsConfig
from dist_plm.spec.tasks.texts import USUAL_TOKENS


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig(TargetsConfig):
    """Every choice is scored behind its context, by a head or, of models that predict tokens, by the logarithm of its
    likelihood, and the cross-entropy over the choices of a row is learned. Choices are a list, or columns such as ending0,
    ending1, …; the right one is a number counted from `first_choice`, a letter, or one of the names that the choices have.
    `label_smoothing` as in task=classify. Choices that are scored by their likelihood lose their ends beyond
    `max_target_length` tokens: 64 or as many as the encoder reads, or half of a decoder's row, when None. `num_choices` of a
    row are for plans of time and memory, which are made before the rows tell it."""

    body: ClassVar[str] = "tasks.choice"
    loss_terms: ClassVar[tuple[str, ...]] = ("choice",)
    head: ClassVar[Head] = "choice"
    by_likelihood: ClassVar[tuple[Kind, ...]] = ("decoder", "encoder_decoder")
    columns: ClassVar[Mapping[str, Column]] = {
        "context": Column(("context", "premise", "sent1", "article", "passage", "ctx", "goal"), optional=True),
        "question": Column(("question", "sent2", "question_stem"), optional=True),
        "choices": Column(("choices", "options", "endings"), optional=True),
        "label": Column(("label", "answer", "answerKey", "gold")),
    }
    measures: ClassVar[tuple[str, ...]] = ("accuracy",)
    of_loss: ClassVar[tuple[str, ...]] = ("num_choices",)  # samples are the same whatever it says
    #: Begin the names of columns of one choice each.
    numbered: ClassVar[tuple[str, ...]] = ("ending", "choice", "option", "answer", "sol")
    takes_changed_words: ClassVar[bool] = True
    usual_target_length: ClassVar[int | None] = USUAL_TOKENS

    name: Literal["choice"] = "choice"
    first_choice: Literal[0, 1] = 0
    num_choices: Count | None = None
    label_smoothing: Fraction = 0.0

    @property
    def num_labels(self) -> int:
        return 1

    def rows_of_sample(self, model: ModelConfig) -> SampleRows:
        count = self.num_choices or 2  # until the data tell it
        return SampleRows(written=count) if model.has_decoder else SampleRows(read=count)

    def untold(self, model: ModelConfig) -> str | None:
        return "task.num_choices" if self.num_choices is None else None

    def with_choices(self, found: int) -> Self:
        if self.num_choices not in (None, found):
            told = f"task.num_choices = {self.num_choices}, and the rows of data.train have {found}: leave it out"
            raise ConfigError([told])
        return replace(self, num_choices=found)
