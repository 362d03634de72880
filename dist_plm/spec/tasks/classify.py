"""Declares classification of a text or of a pair of texts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from dist_plm.config.decode import show
from dist_plm.config.types import NonNegative
from dist_plm.spec.families.base import ModelConfig
from dist_plm.spec.objectives.base import Head
from dist_plm.spec.rules.sections import no_effect, repeated
from dist_plm.spec.tasks.base import Column, LabelsConfig
from dist_plm.spec.tasks.texts import LABEL, TextsConfig, texts_and

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(TextsConfig, LabelsConfig):
    """One of several labels for each row or, with `multi_label`, any number of them: a list, or text with `separator`
    between them. `positive` is the label whose F1 is `f1` where there are two: the last of them when None; of more `f1`
    is the mean over labels, and of sets of labels `f1_micro`.

    With `r_drop` each training row is read twice with other masks of dropout, and half so many times the mean of both
    Kullback-Leibler divergences between the two is added to the loss (Liang et al. 2021, equation 4, halved), with
    `multi_label` the sum of those of every label's own probability.

    Models with an encoder and a decoder learn the label as a text, `label_texts` where it says another than the label
    itself."""

    body: ClassVar[str] = "tasks.classify"
    loss_terms: ClassVar[tuple[str, ...]] = ("classify",)
    head: ClassVar[Head] = "sequence"
    of_texts: ClassVar[tuple[str, ...]] = (*TextsConfig.of_texts, "label_texts")
    columns: ClassVar[Mapping[str, Column]] = texts_and(LABEL)
    measures: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "f1_macro", "f1_micro", "matthews")
    takes_changed_words: ClassVar[bool] = True

    name: Literal["classify"] = "classify"
    multi_label: bool = False
    label_texts: dict[str, Any] = field(default_factory=dict)
    separator: str = ","
    positive: str | None = None
    r_drop: NonNegative = 0.0

    @property
    def measured(self) -> tuple[str, ...]:
        return tuple(name for name in super().measured if name != "matthews" or not self.multi_label)

    @property
    def told_of_measures(self) -> str:
        return " with task.multi_label = true" if self.multi_label else ""

    @property
    def reads_twice(self) -> bool:
        return self.r_drop > 0.0

    @classmethod
    def of_problem(cls, problem: str | None) -> Self | None:
        tasks = (cls(), cls(multi_label=True))
        return next((task for task in tasks if problem in (None, task.problem_type)), None)

    @property
    def problem_type(self) -> str | None:
        return "multi_label_classification" if self.multi_label else "single_label_classification"

    @property
    def num_texts(self) -> int:
        return self.num_labels

    def untold(self, model: ModelConfig) -> str | None:
        return "task.labels" if model.kind in self.by_likelihood and self.finds_labels else None

    def text_of(self, label: str) -> str:
        """Returns the text that a model writes for a label."""
        return str(self.label_texts.get(label, label))

    def problems(self, case: "Case") -> Iterator[str]:
        yield from super().problems(case)
        yield from self._of_texts(case)
        if self.multi_label:
            names = ("class_weights", "balanced", "label_smoothing", "positive")
            yield from no_effect(self, "task", names, "task.multi_label = true")
        elif len(self.labels) > 2:
            yield from no_effect(
                self, "task", ("positive",), f"{len(self.labels)} labels, whose f1 is the mean over all"
            )
        elif self.positive is not None and self.labels and self.positive not in self.labels:
            yield f"task.positive = {self.positive!r} is not among the labels, {', '.join(self.labels)}: name one of them"
        if not self.separator:
            yield "task.separator = '' stands between no labels: give a character, such as a comma"
        elif not self.multi_label:
            yield from no_effect(self, "task", ("separator",), "task.multi_label = false")

    def _of_texts(self, case: "Case") -> Iterator[str]:
        """Yields what is wrong with labels as texts."""
        model = case.config.model
        if model.kind not in self.by_likelihood:
            return
        if self.multi_label:
            yield (
                f"task.multi_label = true is not for model.family = {model.family!r}, which writes one label: learn the labels "
                "as a text by task=seq2seq, or take a model with a head"
            )
        if self.reads_twice:
            yield f"task.r_drop needs a head, and model.family = {model.family!r} has none: leave it out"
        known = set(self.labels)
        for label, text in self.label_texts.items():
            if known and label not in known:
                yield f"task.label_texts.{label} is of no label; the labels are {', '.join(self.labels)}"
            if isinstance(text, bool):
                words = "yes and on" if text else "no and off"
                yield (
                    f"task.label_texts.{label} = {show(text)} is no text, as which YAML reads {words} as well: write the word "
                    "in quotes"
                )
            elif not isinstance(text, str | int | float):
                yield f"task.label_texts.{label} = {show(text)} is no text that could be written: give a word"
            elif not str(text).strip():
                yield f"task.label_texts.{label} is empty, and nothing could be written: give a word"
        for text in sorted(repeated(map(self.text_of, self.labels))):
            yield f"task.label_texts give {text!r} for more than one label: give each a text of its own"
