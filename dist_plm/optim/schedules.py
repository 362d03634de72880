"""The learning rate as a pure function of the step, so that resuming needs no scheduler state.

Convention: `step` counts the updates already made, so the first update asks for step 0. With a warm-up of W updates
the n-th of them (n = step + 1) uses n/W of the peak: the first is not wasted on a rate of zero, and update W uses the
peak. The decay begins at step W from the peak and reaches `min_lr_ratio` x peak at step = `steps`, one past the last
update, so that the last is not wasted either.

Against transformers' schedulers: the same from step W on, one update ahead during warm-up (theirs begins at zero).
Against the published BERT code: its polynomial decay runs over all steps and so drops at the end of the warm-up; ours
starts from the peak there.
"""

import math
from collections.abc import Callable

from dist_plm.spec.derived import num_warmup_steps
from dist_plm.spec.schema import ScheduleConfig

#: Decay time scale of inverse_sqrt without a warm-up, in updates (transformers' and big_vision's choice).
DEFAULT_TIMESCALE = 10_000


def learning_rate(schedule: ScheduleConfig, *, step: int, steps: int, peak: float) -> float:
    """The rate of the update made after `step` others, in a run of `steps` updates.

    Linear warm-up for every schedule (Goyal et al. 2017, arXiv 1706.02677, section 2.2), then

    - constant: the peak for ever; `min_lr_ratio` does not act
    - linear: polynomial of power 1 (Devlin et al. 2019, arXiv 1810.04805, appendix A.2)
    - cosine: half a period (Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5, one cycle)
    - inverse_sqrt: sqrt(W / step) (Vaswani et al. 2017, arXiv 1706.03762, equation 3), `min_lr_ratio` being a floor
    - polynomial: (1 - progress)^power (You et al. 2020, arXiv 1904.00962, section 4)
    - wsd: the peak, then 1 - sqrt(progress) over the last `decay_ratio` of the run (Hu et al. 2024, arXiv 2404.06395,
      section 4; the form of the decay from Hagele et al. 2024, arXiv 2405.18392, section 3)
    - relative_step: the smaller of the peak and 1 / sqrt(t) for update t, 1 for the first (Shazeer & Stern 2018, arXiv
      1804.04235, section 8); `min_lr_ratio` does not act

    Args:
        step: updates already made, 0 for the first update; past `steps` the end value holds.
        steps: the schedule's length, `train.steps`.
        peak: `optim.lr`.
    """
    warmup = num_warmup_steps(schedule, steps)
    if step < warmup:
        return peak * ((step + 1) / warmup)
    if schedule.name == "relative_step":
        return min(peak, 1.0 / math.sqrt(step + 1))
    return peak * _SHAPES[schedule.name](schedule, step, warmup, steps)


def _constant(schedule: ScheduleConfig, step: int, warmup: int, steps: int) -> float:
    return 1.0


def _linear(schedule: ScheduleConfig, step: int, warmup: int, steps: int) -> float:
    return _above_floor(schedule, 1.0 - _progress(step, warmup, steps))


def _cosine(schedule: ScheduleConfig, step: int, warmup: int, steps: int) -> float:
    return _above_floor(schedule, 0.5 * (1.0 + math.cos(math.pi * _progress(step, warmup, steps))))


def _inverse_sqrt(schedule: ScheduleConfig, step: int, warmup: int, steps: int) -> float:
    timescale = warmup or DEFAULT_TIMESCALE
    return max(schedule.min_lr_ratio, math.sqrt(timescale / (step - warmup + timescale)))


def _polynomial(schedule: ScheduleConfig, step: int, warmup: int, steps: int) -> float:
    return _above_floor(schedule, (1.0 - _progress(step, warmup, steps)) ** schedule.power)


def _wsd(schedule: ScheduleConfig, step: int, warmup: int, steps: int) -> float:
    decay_start = max(warmup, steps - round(schedule.decay_ratio * steps))
    return _above_floor(schedule, 1.0 - math.sqrt(_progress(step, decay_start, steps)))


_SHAPES: dict[str, Callable[[ScheduleConfig, int, int, int], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "inverse_sqrt": _inverse_sqrt,
    "polynomial": _polynomial,
    "wsd": _wsd,
}


def _progress(step: int, start: int, end: int) -> float:
    """How much of [start, end] has passed, in [0, 1]."""
    return min(max(step - start, 0) / max(end - start, 1), 1.0)


def _above_floor(schedule: ScheduleConfig, share: float) -> float:
    return schedule.min_lr_ratio + (1.0 - schedule.min_lr_ratio) * share
