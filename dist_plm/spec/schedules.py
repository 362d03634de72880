"""Declares the schedules of the learning rate by name: the settings of each, and its curve after the warm-up.

`progress` is how much has passed of a stretch of steps, in [0, 1]. All is pure arithmetic; dist_plm/optim/schedules.py says
what steps count, and adds the warm-up, which is the same for all.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dist_plm.config.types import Natural, Positive, Share
from dist_plm.config.variants import Variants
from dist_plm.core.errors import count_of

if TYPE_CHECKING:
    from dist_plm.spec.schema import TrainingConfig

#: Decay time scale of inverse_sqrt without a warm-up, in updates (transformers' and big_vision's choice).
DEFAULT_TIMESCALE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over train.steps. Warm-up is given either in steps or as a ratio of train.steps."""

    name: str
    warmup_steps: Natural | None = None
    warmup_ratio: Share | None = None

    def num_warmup_steps(self, steps: int) -> int:
        """Counts the updates of the warm-up, of a run of `steps`."""
        return self.warmup_steps if self.warmup_steps is not None else round((self.warmup_ratio or 0.0) * steps)

    def rate(self, step: int, steps: int, peak: float) -> float:
        """Returns the rate of the update made after `step` others, none of which is of the warm-up."""
        raise NotImplementedError

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        """Yields what is wrong with it beside other sections."""
        yield from ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantConfig(ScheduleConfig):
    """The peak for ever."""

    name: Literal["constant"] = "constant"

    def rate(self, step: int, steps: int, peak: float) -> float:
        return peak


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeStepConfig(ScheduleConfig):
    """The smaller of the peak and 1 / sqrt(t) for update t, 1 for the first (Shazeer & Stern 2018, arXiv 1804.04235,
    section 8)."""

    name: Literal["relative_step"] = "relative_step"

    def rate(self, step: int, steps: int, peak: float) -> float:
        return min(peak, 1.0 / math.sqrt(step + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class FallingConfig(ScheduleConfig):
    """Falls from the peak to `min_lr_ratio` of it."""

    min_lr_ratio: Share = 0.0

    def share(self, progress: float) -> float:
        """Returns what is left of the way from the peak down, [0, 1]."""
        raise NotImplementedError

    def start(self, steps: int) -> int:
        """Returns the step from which it falls."""
        return self.num_warmup_steps(steps)

    def rate(self, step: int, steps: int, peak: float) -> float:
        start = self.start(steps)
        progress = min(max(step - start, 0) / max(steps - start, 1), 1.0)
        return peak * (self.min_lr_ratio + (1.0 - self.min_lr_ratio) * self.share(progress))


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearConfig(FallingConfig):
    """A polynomial of power 1 (Devlin et al. 2019, arXiv 1810.04805, appendix A.2)."""

    name: Literal["linear"] = "linear"

    def share(self, progress: float) -> float:
        return 1.0 - progress


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineConfig(FallingConfig):
    """Half a period (Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5, one cycle)."""

    name: Literal["cosine"] = "cosine"

    def share(self, progress: float) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True, slots=True, kw_only=True)
class PolynomialConfig(FallingConfig):
    """(1 - progress)^power (You et al. 2020, arXiv 1904.00962, section 4)."""

    name: Literal["polynomial"] = "polynomial"
    power: Positive = 1.0

    def share(self, progress: float) -> float:
        return (1.0 - progress) ** self.power


@dataclass(frozen=True, slots=True, kw_only=True)
class WsdConfig(FallingConfig):
    """The peak, then 1 - sqrt(progress) over the last `decay_ratio` of the run (Hu et al. 2024, arXiv 2404.06395, section 4;
    the form of the decay from Hagele et al. 2024, arXiv 2405.18392, section 3)."""

    name: Literal["wsd"] = "wsd"
    decay_ratio: Share = 0.1  # of train.steps

    def share(self, progress: float) -> float:
        return 1.0 - math.sqrt(progress)

    def start(self, steps: int) -> int:
        return max(self.num_warmup_steps(steps), steps - round(self.decay_ratio * steps))

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        steps = config.train.steps
        decay, warmup = round(self.decay_ratio * steps), self.num_warmup_steps(steps)
        if decay + warmup > steps:
            yield (
                f"schedule.decay_ratio = {self.decay_ratio} ({count_of(decay, 'step')}) and a warm-up of "
                f"{count_of(warmup, 'step')} exceed "
                f"train.steps = {steps} together: shorten one of them"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class InverseSqrtConfig(FallingConfig):
    """sqrt(W / step) (Vaswani et al. 2017, arXiv 1706.03762, equation 3), `min_lr_ratio` being a floor."""

    name: Literal["inverse_sqrt"] = "inverse_sqrt"

    def rate(self, step: int, steps: int, peak: float) -> float:
        warmup = self.num_warmup_steps(steps)
        timescale = warmup or DEFAULT_TIMESCALE
        return peak * max(self.min_lr_ratio, math.sqrt(timescale / (step - warmup + timescale)))


SCHEDULES: Variants[ScheduleConfig] = Variants(
    ScheduleConfig,
    "name",
    {
        "constant": ConstantConfig,
        "linear": LinearConfig,
        "cosine": CosineConfig,
        "inverse_sqrt": InverseSqrtConfig,
        "polynomial": PolynomialConfig,
        "wsd": WsdConfig,
        "relative_step": RelativeStepConfig,
    },
    owed=("rate",),
)
