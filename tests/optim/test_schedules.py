"""Bounds, joints and end of every schedule by property; agreement with transformers where the conventions meet."""

import itertools
from dataclasses import fields
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dist_plm.optim.schedules import learning_rate
from dist_plm.spec.schedules import DEFAULT_TIMESCALE, SCHEDULES, ScheduleConfig

NAMES = ("constant", "linear", "cosine", "inverse_sqrt", "polynomial", "wsd", "relative_step")
REACHING_THE_END = ("linear", "cosine", "polynomial", "wsd")
PEAK = 3e-4


def rates(schedule: ScheduleConfig, steps: int) -> list[float]:
    """The rate at every step from the first update to one past the last."""
    return [learning_rate(schedule, step=step, steps=steps, peak=PEAK) for step in range(steps + 1)]


def made(name: str, **settings: Any) -> Any:
    """The schedule with those of the settings that it has."""
    has = {field.name for field in fields(SCHEDULES[name])}
    return SCHEDULES[name](**{key: value for key, value in settings.items() if key in has})


@st.composite
def schedules(draw, names=NAMES):
    steps = draw(st.integers(2, 200))
    schedule = made(
        draw(st.sampled_from(names)),
        warmup_steps=draw(st.integers(0, steps - 1)),
        min_lr_ratio=draw(st.floats(0, 1)),
        power=draw(st.floats(0.1, 4)),
        decay_ratio=draw(st.floats(0.01, 1)),
    )
    return schedule, steps


def test_every_name_of_the_schema_is_covered():
    assert tuple(SCHEDULES) == NAMES
    assert all(SCHEDULES[name]().name == name for name in NAMES)


@settings(deadline=None)
@given(schedules())
def test_bounds_and_shape(case):
    schedule, steps = case
    warmup = schedule.num_warmup_steps(steps)
    values = rates(schedule, steps)
    assert values[0] > 0
    assert all(0 <= value <= PEAK for value in values)
    assert values[warmup] == pytest.approx(PEAK, rel=1e-12)
    if warmup > 0:
        assert values[warmup - 1] == PEAK
        assert values[0] == pytest.approx(PEAK / warmup)
    assert all(early < late for early, late in itertools.pairwise(values[:warmup]))
    assert all(early >= late for early, late in itertools.pairwise(values[warmup:]))


@settings(deadline=None)
@given(schedules(REACHING_THE_END))
def test_end_value_is_reached_and_held(case):
    schedule, steps = case
    assume(schedule.name != "wsd" or round(schedule.decay_ratio * steps) > 0)
    end = pytest.approx(schedule.min_lr_ratio * PEAK, rel=1e-9, abs=1e-15)
    assert learning_rate(schedule, step=steps, steps=steps, peak=PEAK) == end
    assert learning_rate(schedule, step=3 * steps, steps=steps, peak=PEAK) == end


@settings(deadline=None)
@given(schedules(("linear", "cosine", "polynomial")), st.integers(1, 5))
def test_rate_depends_on_progress_alone(case, factor):
    """Continuity: a finer grid of steps gives the same curve at the shared points."""
    schedule, steps = case
    warmup = schedule.num_warmup_steps(steps)
    fine = made(
        schedule.name,
        warmup_steps=warmup * factor,
        min_lr_ratio=schedule.min_lr_ratio,
        power=getattr(schedule, "power", None),
    )
    for step in range(warmup, steps + 1):
        coarse_rate = learning_rate(schedule, step=step, steps=steps, peak=PEAK)
        fine_rate = learning_rate(fine, step=step * factor, steps=steps * factor, peak=PEAK)
        assert fine_rate == pytest.approx(coarse_rate, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_no_jump_at_the_joints(name):
    """On a fine grid no two neighbours differ by more than the steepest part of any shape here allows."""
    steps = 20_000
    schedule = made(name, warmup_ratio=0.1, decay_ratio=0.5, min_lr_ratio=0.05)
    values = rates(schedule, steps)
    assert max(abs(late - early) for early, late in itertools.pairwise(values)) < 0.012 * PEAK  # 1 - sqrt falls fastest


@pytest.mark.parametrize(
    ("ratio", "steps", "expected"), [(0.2843, 7038, 2001), (0.128, 1563, 200), (0.1, 30, 3), (0.0, 10, 0), (1.0, 7, 7)]
)
def test_warmup_ratio_rounds_to_whole_updates(ratio, steps, expected):
    assert made("linear", warmup_ratio=ratio).num_warmup_steps(steps) == expected


def test_warmup_defaults_to_none_at_all():
    assert made("linear").num_warmup_steps(100) == 0


def test_warmup_over_the_whole_run_ends_at_the_peak():
    schedule = made("cosine", warmup_ratio=1.0)
    assert rates(schedule, 10)[9] == PEAK


def test_wsd_holds_the_peak_until_the_decay():
    schedule = made("wsd", warmup_steps=10, decay_ratio=0.2)
    values = rates(schedule, 100)
    assert values[9:81] == [PEAK] * 72
    assert values[81] == pytest.approx(PEAK * (1 - (1 / 20) ** 0.5))
    assert values[100] == 0.0


def test_wsd_without_decay_stays_at_the_peak():
    assert rates(made("wsd", decay_ratio=0.0), 50) == [PEAK] * 51


def test_inverse_sqrt_follows_the_transformer_paper():
    """lrate = d_model^-0.5 * min(n^-0.5, n * warmup^-1.5), whose value at n = warmup is the peak."""
    warmup, steps = 40, 400
    schedule = made("inverse_sqrt", warmup_steps=warmup)
    values = rates(schedule, steps)
    paper = [min(n**-0.5, n * warmup**-1.5) * warmup**0.5 * PEAK for n in range(1, steps + 1)]
    assert values[: warmup - 1] == pytest.approx(paper[: warmup - 1])
    assert values[warmup:] == pytest.approx(paper[warmup - 1 :])


def test_inverse_sqrt_stops_at_its_floor():
    schedule = made("inverse_sqrt", warmup_steps=1, min_lr_ratio=0.5)
    values = rates(schedule, 100)
    assert values[3] > values[4] == values[100] == 0.5 * PEAK


@pytest.mark.parametrize("warmup", [0, 7])
@pytest.mark.parametrize(
    ("schedule_of", "theirs"),
    [
        (
            partial(made, "constant"),
            lambda o, w, _: transformers.get_constant_schedule_with_warmup(o, w),
        ),
        (partial(made, "linear"), transformers.get_linear_schedule_with_warmup),
        (partial(made, "cosine"), transformers.get_cosine_schedule_with_warmup),
        (
            partial(made, "inverse_sqrt"),
            lambda o, w, t: transformers.get_inverse_sqrt_schedule(o, w, timescale=w or DEFAULT_TIMESCALE),
        ),
        (
            partial(made, "polynomial", power=0.5, min_lr_ratio=0.1),
            lambda o, w, t: transformers.get_polynomial_decay_schedule_with_warmup(o, w, t, 0.1 * PEAK, 0.5),
        ),
        (
            partial(made, "wsd", decay_ratio=0.25, min_lr_ratio=0.1),
            lambda o, w, t: transformers.get_wsd_schedule(o, w, t // 4, t, decay_type="1-sqrt", min_lr_ratio=0.1),
        ),
    ],
    ids=NAMES[:-1],
)
def test_agrees_with_transformers_after_warmup(schedule_of, theirs, warmup):
    steps = 60
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = theirs(optimizer, warmup, steps)
    expected = []
    for _ in range(steps + 1):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    ours = rates(schedule_of(warmup_steps=warmup), steps)
    assert ours[warmup:] == pytest.approx(expected[warmup:], rel=1e-9, abs=1e-15)


def test_relative_step_is_adafactors_own_rate():
    weight = torch.nn.Parameter(torch.ones(1))
    theirs = transformers.Adafactor([weight], scale_parameter=False, relative_step=True, warmup_init=False)
    schedule = made("relative_step")
    for step in range(20_000):
        state = {"step": step + 1}
        expected = theirs._get_lr(theirs.param_groups[0], state)
        assert learning_rate(schedule, step=step, steps=1, peak=1e-2) == pytest.approx(expected, rel=1e-12)
