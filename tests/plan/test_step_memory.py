"""What a plan says of a step's memory is not less than what the rehearsal of a rank holds at its peak."""

import pytest

from dist_plm.plan.memory import memory_by_stage
from dist_plm.plan.rehearsal.rank_rehearsal import rehearse_rank
from tests.ranks.selection import covering
from tests.ranks.test_rehearsal import BF16, DEEPSPEED, LLAMA
from tests.ranks.training import configure

ZERO3 = {**DEEPSPEED, "engine__zero_stage": 3, "model__lora": {"rank": 2}}
#: Name -> ranks and changes: what comes and goes in an update, and weights that are put together for the layers that run.
CASES = {
    "muon_tensor4": (4, {"optim__name": "muon", "parallel__tensor": 4, **BF16}),
    "muon": (1, {"optim__name": "muon"}),
    "adapter_zero3": (2, ZERO3),
    "adapter_zero3_bf16": (4, {**ZERO3, **BF16}),
}


@pytest.mark.parametrize("name", covering(CASES, ["muon_tensor4", "adapter_zero3"]))
def test_a_step_takes_no_more_than_planned(name):
    ranks, changes = CASES[name]
    config = configure(ranks, **{**LLAMA, "model__hidden": 256, "engine__bucket_mib": 1, **changes})
    (planned,) = memory_by_stage(config)
    found = rehearse_rank(config, 0, ranks)
    assert found.failure is None
    bound = planned.step.high - planned.terms["context"].high
    assert 0.6 * bound < found.peak_bytes <= bound
