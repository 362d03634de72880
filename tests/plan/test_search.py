"""A search proposes what the rules allow and what fits, and a plan says what would fit."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.plan.interval import GIB
from dist_plm.plan.memory import memory_by_stage, worst_of
from dist_plm.plan.search import search, search_text
from dist_plm.plan.timing.step_time import step_time
from dist_plm.plan.verdict import changed_by, remedies
from dist_plm.spec.gpus import GPUS
from dist_plm.spec.rules.finalize import finalize
from tests.plan.test_memory import SIZES
from tests.spec.make import pretrain


def test_all_that_is_proposed_is_allowed_and_ranked():
    asked = pretrain(**SIZES)
    found = search(asked, 8, GPUS["a100"])
    assert found
    assert all(changed_by(asked, one.changes, 8) is not None for one in found)
    fitting = [one.seconds for one in found if one.verdict == "fits"]
    assert fitting == sorted(fitting)
    assert "parallel.tensor=" in search_text(found, 3)


def test_remedies_make_it_fit():
    large = SIZES | {"model__layers": 32, "model__hidden": 4096, "model__heads": 32}
    assert remedies(pretrain(**large, train__micro_batch=4), 8, GPUS["a100"])
    assert remedies(pretrain(**large), 8, GPUS["v100_16"]) == []


def test_what_no_grid_holds_is_said():
    huge = SIZES | {"model__layers": 96, "model__hidden": 12288, "model__heads": 96}
    assert search(pretrain(**huge), 1, GPUS["v100"]) == []
    assert "no grid fits" in search_text([], 3)


@settings(max_examples=8, deadline=None)
@given(
    world_size=st.sampled_from([1, 2, 6, 8]),
    heads=st.sampled_from([4, 6, 16]),
    layers=st.sampled_from([3, 4]),
    batch=st.sampled_from([6, 8, 64]),
    name=st.sampled_from(["fp16", "bf16", "fp8"]),
)
def test_nothing_is_proposed_that_the_rules_refuse(world_size, heads, layers, batch, name):
    sizes = {"model__heads": heads, "model__hidden": 64 * heads, "model__layers": layers, "train__global_batch": batch}
    device = {"cluster__device": "cuda", "precision__name": name}
    for engine in ("megatron", "deepspeed"):
        asked = pretrain(**SIZES | sizes | device | {"engine__name": engine})
        found = search(asked, world_size, GPUS["h100"])
        for one in found:
            values = {key: replace(getattr(asked, key), **changes) for key, changes in one.changes.items()}
            config = finalize(replace(asked, **values), world_size=world_size, vocab_size=None)
            assert worst_of(memory_by_stage(config)).total.low <= GPUS["h100"].gib * GIB
            assert step_time(config, GPUS["h100"]).seconds == one.seconds
