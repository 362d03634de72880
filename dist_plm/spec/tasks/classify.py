"""Declares classification of a text or of a pair of texts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.config.types import NonNegative
from dist_plm.spec.objectives.base import Head
from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.tasks.base import Column, LabelsConfig
from dist_plm.spec.tasks.texts import LABEL, texts_and

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(LabelsConfig):
    """One of several labels for each row or, with `multi_label`, any number of them: a list, or text with `separator`
    between them. `positive` is the label whose F1 is `f1` where there are two: the last of them when None.

    With `r_drop` each training row is read twice with other masks of dropout, and half so many times the mean of both
    Kullback-Leibler divergences between the two is added to the loss (Liang et al. 2021, equation 4, halved), with
    `multi_label` the sum of those of every label's own probability."""

    body: ClassVar[str] = "tasks.classify"
    loss_terms: ClassVar[tuple[str, ...]] = ("classify",)
    head: ClassVar[Head] = "sequence"
    columns: ClassVar[Mapping[str, Column]] = texts_and(LABEL)
    measures: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "f1_macro", "f1_micro", "matthews")
    takes_changed_words: ClassVar[bool] = True

    name: Literal["classify"] = "classify"
    multi_label: bool = False
    separator: str = ","
    positive: str | None = None
    r_drop: NonNegative = 0.0

    @property
    def reads_twice(self) -> bool:
        return self.r_drop > 0.0

    @property
    def problem_type(self) -> str | None:
        return "multi_label_classification" if self.multi_label else "single_label_classification"

    def problems(self, case: "Case") -> Iterator[str]:
        yield from LabelsConfig.problems(self, case)
        if self.positive is not None and self.labels and self.positive not in self.labels:
            yield f"task.positive = {self.positive!r} is not among the labels, {', '.join(self.labels)}: name one of them"
        if self.multi_label:
            names = ("class_weights", "balanced", "label_smoothing")
            yield from no_effect(self, "task", names, "task.multi_label = true")
        if not self.separator:
            yield "task.separator = '' stands between no labels: give a character, such as a comma"
