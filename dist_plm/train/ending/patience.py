"""When a run ends because its evaluations no longer get better."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from dist_plm.spec.schema_run import EarlyStoppingConfig


@dataclass(slots=True)
class Patience:
    """Tells when evaluations no longer get better. A checkpoint keeps `state`.

    Args:
        settings: complete.
        best, best_step: the best value so far, and its step.
        waited: evaluations in a row that were not better by more than the threshold.
    """

    settings: EarlyStoppingConfig
    best: float | None = None
    best_step: int = 0
    waited: int = 0

    @classmethod
    def after(cls, settings: EarlyStoppingConfig, state: Mapping[str, Any]) -> Self:
        """Goes on from a checkpoint's `state`."""
        patience = cls(settings)
        patience.load(state)
        return patience

    def note(self, step: int, measures: Mapping[str, float]) -> None:
        """Takes note of an evaluation."""
        value = measures.get(self.settings.metric or "loss")
        if value is None:
            return
        if math.isnan(value):  # better than nothing, and worse than all
            self.waited += 1
            return
        gain = math.inf if self.best is None else value - self.best
        if self.best is not None and not self.settings.greater_is_better:
            gain = -gain
        self.waited = 0 if gain > self.settings.threshold else self.waited + 1
        if gain > 0:
            self.best, self.best_step = value, step

    @property
    def is_over(self) -> bool:
        return self.waited >= self.settings.patience

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave, or anew from nothing, or from what another measure had been."""
        here = self.settings
        if (here.metric, here.greater_is_better) != (
            state.get("metric", here.metric),
            state.get("rises", here.greater_is_better),
        ):
            state = {}
        self.best, self.best_step = state.get("best"), state.get("best_step", 0)
        self.waited = state.get("waited", 0)

    def state(self) -> dict[str, Any]:
        settings = {"metric": self.settings.metric, "rises": self.settings.greater_is_better}
        return {"best": self.best, "best_step": self.best_step, "waited": self.waited, **settings}
