"""Declares regression: a number for a text or a pair of texts."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.config.types import Positive
from dist_plm.spec.objectives.base import Head
from dist_plm.spec.rules.sections import repeated
from dist_plm.spec.tasks.base import Column
from dist_plm.spec.tasks.texts import NUMBER, TextsConfig, texts_and

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case

#: Numbers that may be written, at most.
_MOST = 1000
#: Of their texts, at most.
_DECIMALS = 6


@dataclass(frozen=True, kw_only=True)
class RegressConfig(TextsConfig):
    """The squared error between what the model gives and the row's number is learned.

    Models with an encoder and a decoder learn the number as a text, rounded to a multiple of `step` between `lowest` and
    `highest` (Raffel et al. 2020, section 2.4, of STS-B: 0.2), and say the likeliest of these."""

    body: ClassVar[str] = "tasks.regress"
    loss_terms: ClassVar[tuple[str, ...]] = ("regress",)
    head: ClassVar[Head] = "sequence"
    columns: ClassVar[Mapping[str, Column]] = texts_and(NUMBER)
    measures: ClassVar[tuple[str, ...]] = ("pearson", "spearman", "mse")
    falling: ClassVar[tuple[str, ...]] = ("loss", "mse")
    takes_changed_words: ClassVar[bool] = True

    of_texts: ClassVar[tuple[str, ...]] = (*TextsConfig.of_texts, "lowest", "highest", "step")

    name: Literal["regress"] = "regress"
    lowest: float | None = None
    highest: float | None = None
    step: Positive = 0.2

    @property
    def num_labels(self) -> int:
        return 1

    @property
    def problem_type(self) -> str | None:
        return "regression"

    @property
    def is_text(self) -> bool:
        """Whether numbers are learned as texts."""
        return self.lowest is not None and self.highest is not None

    @property
    def levels(self) -> tuple[float, ...]:
        """Lists the numbers that may be written, of texts."""
        assert self.lowest is not None
        assert self.highest is not None
        count = math.floor((self.highest - self.lowest) / self.step + 1e-6) + 1
        # 0 is added as what rounds to -0.0 would be written so.
        return tuple(round(self.lowest + number * self.step, 9) + 0.0 for number in range(count))

    @property
    def num_texts(self) -> int:
        return len(self.levels)

    def text_of(self, level: float) -> str:
        """Returns what is written for one of the levels, with as many decimals as all of them need."""
        steps = (f"{one:.{_DECIMALS}f}" for one in (self.step, self.lowest or 0.0))
        decimals = max(len(one.rstrip("0").partition(".")[2]) for one in steps)
        return f"{level:.{decimals}f}"

    def problems(self, case: "Case") -> Iterator[str]:
        yield from super().problems(case)
        model = case.config.model
        if model.kind not in self.by_likelihood:
            return
        if self.lowest is None or self.highest is None:
            yield (
                f"task.lowest and task.highest are missing: model.family = {model.family!r} learns numbers as texts, from the "
                "lowest to the highest by task.step; give them, as in task.lowest=0 task.highest=5"
            )
        elif not 2 <= (self.highest - self.lowest) / self.step + 1 <= _MOST:
            yield (
                f"task.lowest = {self.lowest:g}, task.highest = {self.highest:g} and task.step = {self.step:g} make fewer than "
                f"2 or more than {_MOST:,} numbers to choose from: change one of them"
            )
        elif twice := repeated(map(self.text_of, self.levels)):
            yield (
                f"task.lowest = {self.lowest:g}, task.highest = {self.highest:g} and task.step = {self.step:g} write "
                f"{twice[0]!r} for more than one number, as texts have {_DECIMALS} decimals at most: change one of them"
            )
