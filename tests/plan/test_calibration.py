"""A short run of one's own says how fast kernels are, and what it cannot say is refused in one sentence."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.config import runfile
from dist_plm.core.errors import ConfigError
from dist_plm.plan.timing.calibration import calibration_of, measured_seconds, nearest_calibration
from dist_plm.plan.timing.efficiency import DEFAULT
from dist_plm.plan.timing.likeness import IN_COMMON, Traits, carried
from dist_plm.plan.timing.step_time import stage_passes, step_time
from dist_plm.spec.gpus import GPUS
from dist_plm.spec.rules.finalize import finalize
from tests.plan.test_finetune import completed, planned
from tests.plan.test_memory import SIZES
from tests.spec.make import pretrain


def write_run(path, seconds: list[float], **changes):
    config = finalize(pretrain(**SIZES | {"cluster__gpu": "a100"} | changes), world_size=8, vocab_size=None)
    runfile.write(config, path / "run.yaml")
    lines = [json.dumps({"step": step, "step_seconds": one}) for step, one in enumerate(seconds, start=1)]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return config


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.3])
def test_a_run_is_foretold_as_it_was(tmp_path, factor):
    config = write_run(tmp_path, [1.0])
    measured = factor * step_time(config, GPUS["a100"]).seconds
    write_run(tmp_path, [9.0, 3.0, 3.0, *[measured] * 16, 7.0])
    found = calibration_of(str(tmp_path), None)
    after = step_time(config, GPUS["a100"], efficiency=found.efficiency(config))
    assert after.seconds == pytest.approx(measured, rel=1e-9)
    assert f"foretold; steps take {factor:.2f} of the time foretold" in found.line(config)


def test_another_grid_is_scaled_less_and_alike_in_all_its_parts(tmp_path):
    config = write_run(tmp_path, [0.1] * 20)
    found = calibration_of(str(tmp_path), None)
    other = finalize(pretrain(**SIZES | {"parallel__pipeline": 4}), world_size=8, vocab_size=None)
    share = IN_COMMON + (1 - IN_COMMON) * math.exp(-2)
    factor = (0.1 / step_time(config, GPUS["a100"]).seconds) ** share
    plain, after = (step_time(other, GPUS["a100"], efficiency=one) for one in (DEFAULT, found.efficiency(other)))
    assert after.parts == pytest.approx({name: factor * seconds for name, seconds in plain.parts.items()})
    passes = [stage_passes(other, GPUS["a100"], one) for one in (DEFAULT, found.efficiency(other))]
    assert np.array(passes[1]) == pytest.approx(factor * np.array(passes[0]))
    assert f"2.0 doublings away, steps take {factor:.2f} of the time foretold" in found.line(other)


def test_of_several_runs_the_one_most_like_the_planned_calibrates(tmp_path):
    changes = {"alike": {}, "deep": {"parallel__pipeline": 4}, "elsewhere": {"cluster__gpu": "h100"}, "short": {}}
    for name, more in changes.items():
        write_run(tmp_path / name, [0.1] * (2 if name == "short" else 20), **more)
    planned = finalize(
        pretrain(**SIZES | {"cluster__gpu": "a100", "parallel__pipeline": 2}), world_size=8, vocab_size=None
    )
    assert nearest_calibration(str(tmp_path), planned).run == str(tmp_path / "alike")
    deep = finalize(
        pretrain(**SIZES | {"cluster__gpu": "a100", "parallel__pipeline": 4}), world_size=8, vocab_size=None
    )
    assert nearest_calibration(str(tmp_path), deep).run == str(tmp_path / "deep")
    assert nearest_calibration(str(tmp_path / "deep"), planned).run == str(tmp_path / "deep")
    v100 = replace(deep, cluster=replace(deep.cluster, gpu="v100"))
    with pytest.raises(ConfigError, match="holds no run that can calibrate: its runs were on a100, h100, not on v100"):
        nearest_calibration(str(tmp_path), v100)


def test_no_grid_of_a_search_is_favoured(tmp_path):
    config = write_run(tmp_path, [0.1] * 20)
    found = calibration_of(str(tmp_path), None)
    assert found.efficiency().slowness == (0.1 / step_time(config, GPUS["a100"]).seconds) ** IN_COMMON
    assert "steps of any grid take" in found.line()


@pytest.mark.parametrize(
    ("changes", "distance"),
    [
        ({}, 0),
        ({"train__micro_batch": 4}, 1),
        ({"parallel__tensor": 2, "parallel__sequence_parallel": True}, 1),
        ({"model__recompute": "full", "precision__name": "bf16"}, 2),
        ({"data__sequence_length": SIZES["data__sequence_length"] // 2}, 1),
    ],
)
def test_what_runs_differ_in_sets_them_apart(changes, distance):
    sizes = SIZES | {"train__micro_batch": 2, "precision__name": "fp32", "model__position": "rotary"}
    one, other = (
        Traits.of(finalize(pretrain(**sizes | more), world_size=8, vocab_size=None)) for more in ({}, changes)
    )
    assert one.distance(other) == other.distance(one) == distance


@given(st.floats(0, 30), st.floats(0, 30), st.floats(0, 1))
def test_the_less_like_a_run_the_less_is_carried(near, far, in_common):
    near, far = sorted((near, far))
    assert carried(0.0, in_common) == pytest.approx(1.0)
    assert in_common <= carried(far, in_common) <= carried(near, in_common) <= 1 + 1e-12


#: A run, and the rows of each sample whose tokens its metrics count.
RUNS = [
    ([], 1),
    (["task=choice", "task.num_choices=3"], 3),
    (["task=classify", "task.r_drop=1.0"], 1),  # they are counted as the file has them
]


@pytest.mark.parametrize(("words", "each"), RUNS)
def test_a_fine_tuning_run_calibrates_with_rows_as_long_as_they_were(tmp_path, words, each):
    given = ["data.train=nowhere", "model=bert_large", "cluster.gpu=a100", "precision=bf16"]
    config = completed(*given, *words) if words else planned().config
    runfile.write(config, tmp_path / "run.yaml")
    rows, tokens = config.train.global_batch, config.data.sequence_length // 4
    records = [{"step": n, "step_seconds": 0.5, "tokens_seen": n * rows * each * tokens} for n in range(1, 21)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    found = calibration_of(str(tmp_path), None)
    assert found.row_tokens == tokens
    short = replace(config, data=replace(config.data, sequence_length=tokens))
    assert found.foretold == step_time(short, GPUS["a100"]).seconds
    assert f"foretold with rows of {tokens} tokens" in found.line(config)
    (tmp_path / "metrics.jsonl").write_text(
        "\n".join(json.dumps({"step": n, "step_seconds": 0.5}) for n in range(1, 21))
    )
    assert calibration_of(str(tmp_path), None).foretold == step_time(config, GPUS["a100"]).seconds


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
        ([500.0] * 20, {}, "cannot be what cluster.gpu = 'a100' takes"),
        ([1e-6] * 20, {}, "cannot be what cluster.gpu = 'a100' takes"),
        ([1.0] * 20, {"cluster__gpu": None}, "not in the table of GPUs"),
    ],
)
def test_what_says_nothing_is_refused(tmp_path, seconds, changes, said):
    write_run(tmp_path, seconds, **changes)
    with pytest.raises(ConfigError, match=said):
        calibration_of(str(tmp_path), None)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"^configuration refused, 1 problem:\n  - calibrate = .*run\.yaml cannot be read"
    ):
        calibration_of(str(tmp_path), "a100")
    (tmp_path / "run.yaml").write_text("hello: 1\n")
    with pytest.raises(ConfigError, match=r"1 problem:\n  - calibrate = .* is not the directory of a run: .*hello = 1"):
        calibration_of(str(tmp_path), "a100")
    write_run(tmp_path, [1.0])
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"no metrics\.jsonl"):
        calibration_of(str(tmp_path), "a100")
