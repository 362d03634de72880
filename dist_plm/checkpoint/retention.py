"""Chooses the checkpoints that go when a new one is complete. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from dist_plm.spec.derived import is_due


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Says which checkpoints stay.

    Args:
        latest: how many of the newest, at least 1.
        every: all whose step is a multiple of it; 0 for none.
        best: the evaluation measure whose best checkpoint stays too; None for none.
        best_is: whether small or large values of it are good.
    """

    latest: int
    every: int = 0
    best: str | None = None
    best_is: Literal["lowest", "highest"] = "lowest"

    def superseded(self, checkpoints: Mapping[int, Mapping[str, float]], newest: int) -> list[int]:
        """The steps to delete.

        Args:
            checkpoints: the evaluation measures of each complete checkpoint, by step.
            newest: the step just saved. Later ones belong to a continuation of the run that was given up: they are
                not counted, and stay until they are written over.
        """
        assert self.latest >= 1
        assert newest in checkpoints
        steps = sorted(step for step in checkpoints if step <= newest)
        stay: set[int | None] = set(steps[-self.latest :])
        stay |= {step for step in steps if is_due(step, self.every)}
        stay.add(self.best_of(checkpoints, newest))
        return [step for step in steps if step not in stay]

    def best_of(self, checkpoints: Mapping[int, Mapping[str, float]], newest: int) -> int | None:
        """Finds the step of the best checkpoint, which training has brought forth, not that of its first weights; None where
        none was measured. Arguments as those of `superseded`."""
        scored = {
            step: measures[self.best]
            for step, measures in checkpoints.items()
            if 0 < step <= newest and self.best and self.best in measures
        }
        sign = 1 if self.best_is == "lowest" else -1
        # The earlier one of equals; a loss that is not a number is never the best.
        return min(scored, key=lambda step: (scored[step] != scored[step], sign * scored[step], step), default=None)
