"""Declares regression: a number for a text or a pair of texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from dist_plm.spec.objectives.base import Head
from dist_plm.spec.tasks.base import Column, TaskConfig
from dist_plm.spec.tasks.texts import NUMBER, texts_and


@dataclass(frozen=True, kw_only=True)
class RegressConfig(TaskConfig):
    """The squared error between what the model gives and the row's number is learned."""

    body: ClassVar[str] = "tasks.regress"
    loss_terms: ClassVar[tuple[str, ...]] = ("regress",)
    head: ClassVar[Head] = "sequence"
    columns: ClassVar[Mapping[str, Column]] = texts_and(NUMBER)
    measures: ClassVar[tuple[str, ...]] = ("pearson", "spearman", "mse")
    falling: ClassVar[tuple[str, ...]] = ("loss", "mse")
    takes_changed_words: ClassVar[bool] = True

    name: Literal["regress"] = "regress"

    @property
    def num_labels(self) -> int:
        return 1

    @property
    def problem_type(self) -> str | None:
        return "regression"
