"""What a plan says of building the engine is what the rehearsal of a rank holds at its peak there."""

import pytest

from dist_plm.plan.memory import memory_by_stage
from dist_plm.plan.rehearsal.rank_rehearsal import rehearse_rank
from dist_plm.plan.render import plan_text, refusal
from dist_plm.plan.verdict import make_plan
from tests.ranks.test_rehearsal import DEEPSPEED, LLAMA
from tests.ranks.training import configure

#: Weights are most of what there is, so that building takes more than a step.
WIDE = {**LLAMA, "model__hidden": 256, "engine__bucket_mib": 1, "model__recompute": "full", "train__global_batch": 32}
BF16 = {"precision__name": "bf16"}
CASES = {
    "megatron1": {"engine__zero_stage": 1},
    "megatron1_bf16": {"engine__zero_stage": 1, **BF16},
    "megatron1_bf16_sums": {"engine__zero_stage": 1, "precision__reduce_in_fp32": False, **BF16},
    "megatron1_frozen": {"engine__zero_stage": 1, "train__freeze": ("layers.0",), **BF16},
    "megatron1_virtual": {"engine__zero_stage": 1, "parallel__pipeline": 2, "parallel__virtual_pipeline": 2, **BF16},
    "deepspeed3_bf16": {**DEEPSPEED, "engine__zero_stage": 3, **BF16},
    "deepspeed3": {**DEEPSPEED, "engine__zero_stage": 3},
}


@pytest.mark.parametrize("name", [*list(CASES)[:-1], pytest.param("deepspeed3", marks=pytest.mark.slow)])
def test_building_takes_what_is_planned(name):
    config = configure(32, **WIDE, **CASES[name])
    planned = memory_by_stage(config)[0]
    found = rehearse_rank(config, 0, 32)
    assert found.failure is None
    assert found.peak_at == "building the engine"
    context = planned.terms["context"]
    # Padding, and a layer that is put together to be divided.
    assert 0.98 * (planned.building.low - context.low) < found.peak_bytes
    assert found.peak_bytes < 1.02 * (planned.building.high - context.high)
    assert planned.total.high >= found.peak_bytes


@pytest.mark.parametrize("name", [("megatron", 0, "fp32"), ("megatron", 0, "bf16"), ("deepspeed", 0, "fp32")])
def test_where_weights_stay_a_step_takes_more(name):
    engine, stage, precision = name
    changes = {"engine__name": engine, "engine__zero_stage": stage, "precision__name": precision}
    (planned,) = memory_by_stage(configure(32, **WIDE, **changes))
    assert not planned.is_built_in_more
    assert planned.total == planned.step


@pytest.mark.parametrize("stage", [0, 1])
def test_a_plan_says_when_building_counts(stage):
    plan = make_plan(configure(32, **WIDE, engine__zero_stage=stage, cluster__gpu="l40s", **BF16), 32)
    text = plan_text(plan, [])
    assert ("while the engine is built" in text.splitlines()[0]) == bool(stage)
    assert ("at building" in text) == bool(stage)
    assert ("while the engine is built" in refusal(plan, [])) == bool(stage)
