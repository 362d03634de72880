"""The learning rate as a pure function of the step, so that resuming needs no scheduler state.

Convention: `step` counts the updates already made, so the first update asks for step 0. With a warm-up of W updates
the n-th of them (n = step + 1) uses n/W of the peak: the first is not wasted on a rate of zero, and update W uses the
peak. The decay begins at step W from the peak and reaches `min_lr_ratio` x peak at step = `steps`, one past the last
update, so that the last is not wasted either.

Against transformers' schedulers: the same from step W on, one update ahead during warm-up (theirs begins at zero).
Against the published BERT code: its polynomial decay runs over all steps and so drops at the end of the warm-up; ours
starts from the peak there.
"""

from dist_plm.spec.schedules import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, *, step: int, steps: int, peak: float) -> float:
    """The rate of the update made after `step` others, in a run of `steps` updates.

    Linear warm-up for every schedule (Goyal et al. 2017, arXiv 1706.02677, section 2.2), then its curve
    (dist_plm/spec/schedules.py).

    Args:
        step: updates already made, 0 for the first update; past `steps` the end value holds.
        steps: the schedule's length, `train.steps`.
        peak: `optim.lr`.
    """
    warmup = schedule.num_warmup_steps(steps)
    return peak * ((step + 1) / warmup) if step < warmup else schedule.rate(step, steps, peak)
