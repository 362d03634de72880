"""A short run of one's own says how fast kernels are, and what it cannot say is refused in one sentence."""

import json
import math
from dataclasses import replace

import pytest

from dist_plm.config import runfile
from dist_plm.core.errors import ConfigError
from dist_plm.plan.timing.calibration import calibration_of, measured_seconds
from dist_plm.plan.timing.efficiency import DEFAULT
from dist_plm.plan.timing.step_time import step_time
from dist_plm.spec.gpus import GPUS
from dist_plm.spec.rules.finalize import finalize
from tests.plan.test_memory import SIZES
from tests.spec.make import pretrain


def write_run(path, seconds: list[float], **changes):
    config = finalize(pretrain(**SIZES | {"cluster__gpu": "a100"} | changes), world_size=8, vocab_size=None)
    runfile.write(config, path / "run.yaml")
    lines = [json.dumps({"step": step, "step_seconds": one}) for step, one in enumerate(seconds, start=1)]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return config


@pytest.mark.parametrize("speed", [0.5, 0.9, 1.3])
def test_the_speed_of_a_run_is_found_again(tmp_path, speed):
    config = write_run(tmp_path, [1.0])
    slower = step_time(config, GPUS["a100"], efficiency=replace(DEFAULT, speed=speed)).seconds
    write_run(tmp_path, [9.0, 3.0, 3.0, *[slower] * 16, 7.0])
    found = calibration_of(str(tmp_path), None)
    assert found.efficiency.speed == pytest.approx(speed, rel=0.01)
    assert step_time(config, GPUS["a100"], efficiency=found.efficiency).seconds == pytest.approx(slower, rel=0.002)
    assert f"kernels at {speed:.2f}" in found.line()


def test_the_first_steps_do_not_count():
    records = [{"step_seconds": one} for one in (50.0, 2.0, 2.0, 1.0, 1.1, 0.9)]
    assert measured_seconds(records) == 1.0
    assert measured_seconds(records[:4]) is None
    assert (
        measured_seconds([*records, *({"step_seconds": one} for one in ("x", [1], math.inf, math.nan, -1, True))])
        == 1.0
    )


@pytest.mark.parametrize(
    ("seconds", "changes", "said"),
    [
        ([1.0] * 4, {}, "fewer than 5 logged steps"),
        ([500.0] * 20, {}, "cannot be what a a100 takes"),
        ([1e-6] * 20, {}, "cannot be what a a100 takes"),
        ([1.0] * 20, {"cluster__gpu": None}, "not in the table of GPUs"),
    ],
)
def test_what_says_nothing_is_refused(tmp_path, seconds, changes, said):
    write_run(tmp_path, seconds, **changes)
    with pytest.raises(ConfigError, match=said):
        calibration_of(str(tmp_path), None)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.yaml cannot be read"):
        calibration_of(str(tmp_path), "a100")
    write_run(tmp_path, [1.0])
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"no metrics\.jsonl"):
        calibration_of(str(tmp_path), "a100")
