"""Tells whether a step's loss and gradient norm are out of line with those of the steps before."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from dist_plm.core.parsing import is_number
from dist_plm.spec.schema_run import HealConfig

#: Median distances from the median in a standard deviation, of a normal distribution.
_SIGMA = 1.4826
#: The least standard deviation that is believed in: of a loss as a share of the median, of a norm's logarithm.
_LEAST_SHARE = 0.01
_LEAST_LOG = 0.15
#: So many times further above the median than any step of the window is out of line.
_BEYOND = 2.0


@dataclass(slots=True)
class SpikeWatch:
    """Compares steps with a window of those before, by robust z-scores: (x - median) / (1.4826 · median |x - median|).

    Norms are compared by their logarithms. Values that lie low are no spikes: a loss falls.
    """

    settings: HealConfig
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def judge(self, loss: float, norm: float | None) -> str | None:
        """Says what is out of line, if anything is.

        Args:
            loss: finite.
            norm: of the gradient, finite; None where the update was skipped.
        """
        settings, found = self.settings, []
        if (z := self._score(loss, self.losses, settings.loss_z, share=True)) is not None:
            found.append(f"the loss is {loss:.4g} after a median of {median(self.losses):.4g} (z = {z:.1f})")
        if norm is not None and norm > 0:
            logs = [math.log(one) for one in self.norms]
            if (z := self._score(math.log(norm), logs, settings.norm_z, share=False)) is not None:
                found.append(
                    f"the gradient norm is {norm:.4g} after a median of {median(self.norms):.4g} (z = {z:.1f})"
                )
        return ", and ".join(found) or None

    def take(self, loss: float, norm: float | None) -> None:
        """Adds a step to the window."""
        self.losses = [*self.losses, loss][-self.settings.window :]
        if norm is not None and norm > 0:
            self.norms = [*self.norms, norm][-self.settings.window :]

    def _score(self, value: float, window: Sequence[float], limit: float, *, share: bool) -> float | None:
        """The z-score of a value that is out of line; None of one that is not."""
        if limit == 0 or 2 * len(window) < self.settings.window:
            return None
        middle, z = median(window), z_score(value, window, share=share)
        return z if z > limit and value - middle > _BEYOND * (max(window) - middle) else None

    def state(self) -> dict[str, Any]:
        """Gives what a checkpoint keeps."""
        return {"losses": self.losses, "norms": self.norms}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave; from nothing where it is something else."""
        kept = {name: state.get(name) for name in ("losses", "norms")}
        fits = all(isinstance(one, list) and all(is_number(x) and x > -math.inf for x in one) for one in kept.values())
        self.losses, self.norms = (list(kept[name] or []) if fits else [] for name in ("losses", "norms"))


def z_score(value: float, window: Sequence[float], *, share: bool) -> float:
    """Gives the robust z-score of a loss, or (`share` false) of a norm's logarithm, beside a window of those before."""
    middle = median(window)
    sigma = _SIGMA * median([abs(one - middle) for one in window])
    return (value - middle) / max(sigma, _LEAST_SHARE * abs(middle) if share else _LEAST_LOG, 1e-30)
