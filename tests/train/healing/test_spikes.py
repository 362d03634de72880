import json
import math
import random

import pytest

from dist_plm.data.loader.skipped_samples import SkippedSamples
from dist_plm.engines.base import StepResult
from dist_plm.spec.schema_run import EarlyStoppingConfig, HealConfig
from dist_plm.train.ending.patience import Patience
from dist_plm.train.healing import acts
from dist_plm.train.healing.alarms import Alarms
from dist_plm.train.healing.spikes import SpikeWatch
from dist_plm.train.parts import numbered


def watched(steps=64, noise=0.02, **settings):
    """A watch that has seen steps of a loss about 3 and a norm about 1."""
    watch, draw = SpikeWatch(HealConfig(**settings)), random.Random(0)
    for _ in range(steps):
        watch.take(3 * math.exp(draw.gauss(0, noise)), math.exp(draw.gauss(0, 10 * noise)))
    return watch


def test_losses_and_norms_far_above_the_window_are_spikes():
    watch = watched(norm_z=10.0)
    assert watch.judge(3.1, 1.2) is None
    assert "the loss is 5 after a median of 3.0" in (watch.judge(5.0, 1.2) or "")
    assert "the gradient norm is 40 after a median of" in (watch.judge(3.0, 40.0) or "")
    assert ", and the gradient norm" in (watch.judge(5.0, 40.0) or "")
    assert watch.judge(0.1, 1e-6) is None, "a loss may fall"


def test_each_measure_is_turned_off_by_itself():
    assert watched(loss_z=0.0).judge(5.0, 1.0) is None
    assert watched(norm_z=0.0).judge(3.0, 1e9) is None


def test_by_default_a_norm_has_to_be_absurd():
    assert watched().judge(3.0, 40.0) is None, "it is clipped"
    assert "the gradient norm is 1e+09" in (watched().judge(3.0, 1e9) or "")


@pytest.mark.parametrize(("steps", "told"), [(31, False), (32, True)])
def test_half_a_window_is_needed(steps, told):
    assert (watched(steps).judge(9.0, 1.0) is not None) is told


def test_an_outlier_of_the_window_makes_others_of_its_size_none():
    watch = watched()
    watch.take(6.0, 1.0)
    assert watch.judge(6.5, 1.0) is None
    assert watch.judge(30.0, 1.0) is not None


def test_a_window_goes_through_json_and_nothing_else_is_taken_for_one():
    watch, other = watched(100), watched(0)
    other.load(json.loads(json.dumps(watch.state())))
    assert (other.losses, other.norms) == (watch.losses, watch.norms)
    assert len(other.losses) == 64
    for wrong in ({}, {"losses": 3}, {"losses": ["x"], "norms": []}, {"losses": [1.0]}):
        other.load(wrong)
        assert other.losses == other.norms == []


def result(loss=3.0, norm=1.0, scale=None):
    return StepResult(loss=loss, terms={}, num_tokens=1, grad_norm=norm, loss_scale=scale, skipped=norm is None)


@pytest.mark.parametrize("mode", ["off", "warn", "on"])
def test_modes(mode):
    alarms = Alarms(SpikeWatch(HealConfig(mode=mode)))
    alarms.note_step(1, result(norm=None, scale=2.0**20), samples=0)
    assert (alarms.raised, alarms.take_told()) == (None, 0), "a loss scale is looked for in this way"
    alarms.note_step(2, result(norm=None), samples=0)
    assert (alarms.raised is not None) is (mode == "on")
    assert alarms.take_told() == (mode == "warn")
    alarms.note_step(3, result(loss=math.nan), samples=0)
    assert alarms.take_told() == (mode == "warn")


def test_acts_are_read_from_the_history():
    settings = HealConfig(mode="on", rate=0.5, rate_steps=10, within=100)
    first = acts.entry("it burst", settings, step=40, reached=44, noticed=55, first=54, skipped=[(432, 448)])
    history = [{"step": 0, "changes": ["begun"]}, first]
    assert "samples 432 to 447 of steps 54 to 55" in first["changes"][0]
    assert acts.skipped_samples([(448, 450)], history).ranges == ((432, 450),)
    assert [acts.rate_factor(history, step) for step in (53, 54, 63, 64)] == [1.0, 0.5, 0.5, 1.0]
    assert [acts.recent(history, settings, step) for step in (56, 154, 155)] == [1, 1, 0]
    assert acts.noted(history, 40) == {"rollbacks": 1, "noticed": 55, "step": 40, "skipped_samples": 16}
    assert acts.noted(history, 40, reached=44)["step"] == 44
    assert acts.noted(history, 44) == {}


@pytest.mark.parametrize(
    ("loss", "told", "numbers"),
    [
        (
            9.25,
            "its largest loss of a microbatch, 9.25, was that of samples 1,440 to 1,441 (show)",
            {"worst_loss": 9.25},
        ),
        (math.inf, "its first microbatch whose loss is not finite is that of samples 1,440 to 1,441 (show)", {}),
    ],
)
def test_an_act_names_the_samples_that_were_worst(loss, told, numbers):
    worst = acts.Worst(loss, 1440, 1441, "show")
    numbers = {**numbers, "worst_first_sample": 1440, "worst_last_sample": 1441}
    act = acts.entry(
        "it burst", HealConfig(), step=40, reached=40, noticed=55, first=54, skipped=[(1432, 1448)], worst=worst
    )
    assert act["changes"][0].endswith(f"samples 1,432 to 1,447 of steps 54 to 55 are skipped; {told}")
    others = {"rollbacks": 1, "noticed": 55, "step": 40, "skipped_samples": 16}
    assert acts.noted([act], 40) == {**others, **numbers}


def test_patience_goes_back_with_a_run():
    patience = Patience(EarlyStoppingConfig(patience=2))
    patience.note(10, {"loss": 2.0})
    kept = patience.state()
    patience.note(20, {"loss": 3.0})
    patience.note(30, {"loss": 1.0})
    patience.load(kept)
    assert patience.state() == kept
    patience.load({})
    assert patience == Patience(EarlyStoppingConfig(patience=2))


@pytest.mark.parametrize(("skipped", "stop"), [([], 20), ([(4, 8)], 24), ([(4, 8), (20, 30)], 34), ([(24, 30)], 20)])
def test_a_run_that_counts_in_samples_takes_as_many_whatever_it_skips(skipped, stop):
    assert numbered(20, SkippedSamples.of(skipped)) == stop
    assert numbered(None, SkippedSamples.of(skipped)) is None
