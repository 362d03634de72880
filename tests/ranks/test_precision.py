"""Overflow and other gradients that are not finite, injected: updates are skipped, scales move, and long rows of them end
the run with a name."""

import itertools
import math
from unittest.mock import patch

import pytest
import torch

from dist_plm.distributed.cuda_shim import installed
from dist_plm.engines import loss_terms
from dist_plm.engines.non_finite_guard import Diverged, poisoned_if_not_finite
from tests.ranks.engine_runs import agree, train_case
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_lamb import LAMB
from tests.ranks.training import Outcome, build, configure, few_microbatches, rank_batches

pytestmark = pytest.mark.ranks

FP16 = {
    "precision__name": "fp16",
    "precision__initial_loss_scale": 1024.0,
    "precision__loss_scale_window": 2,
    "precision__loss_scale_hysteresis": 2,
    "cluster__device": "auto",  # DeepSpeed's fp16 is refused for cpu by name
}
#: What is run where.
ENGINES = {
    "megatron_0": (1, {"engine__zero_stage": 0}),
    "megatron_1": (2, {"engine__zero_stage": 1}),
    "deepspeed_1": (2, {"engine__name": "deepspeed", "engine__zero_stage": 1}),
    "deepspeed_2": (2, {"engine__name": "deepspeed", "engine__zero_stage": 2}),
    "deepspeed_3": (2, {"engine__name": "deepspeed", "engine__zero_stage": 3}),
    "megatron_grid": (4, {"engine__zero_stage": 1, "parallel__tensor": 2, "parallel__pipeline": 2}),
    "deepspeed_grid": (
        4,
        {"engine__name": "deepspeed", "engine__zero_stage": 1, "parallel__tensor": 2, "parallel__pipeline": 2},
    ),
}


def configured(world_size: int, **changes):
    return configure(world_size, **few_microbatches(world_size, changes))


def weights_of(engine) -> list[torch.Tensor]:
    return [state.tensors["weight"].clone() for state in engine.parameter_states()]


def claim_fp16(config) -> None:
    """Has DeepSpeed's accelerator say that a CPU knows fp16, as it does."""
    if config.engine.name == "deepspeed" and config.precision.name == "fp16":
        from deepspeed.accelerator import get_accelerator

        get_accelerator().is_fp16_supported = lambda: True


def inject(world: World, config, bad_steps: dict[int, float], steps: int, name: str = "layers.3.mlp.down.weight"):
    """Trains; in `bad_steps` one rank's gradient of one parameter is multiplied by the value. Returns of each step:
    whether it was skipped, the loss scale, and whether weights moved."""
    assert installed()
    claim_fp16(config)
    engine, groups = build(world, config)
    now = {"step": 0}

    def poison(gradient):
        return gradient * bad_steps.get(now["step"], 1.0)

    armed = bool(engine._watch._hooks)
    engine._watch._unwatch()  # hooks run in the order they were made: the poison comes first
    for shard_spec in engine._watch._shard_specs:
        if shard_spec.shards[0].name == name and groups.coordinates.data == 0 and groups.coordinates.tensor == 0:
            shard_spec.parameter.register_hook(poison)
    if armed:
        engine._watch._watch()
    told = []
    for step in range(steps):
        now["step"] = step
        before = weights_of(engine)
        result = engine.train_step(rank_batches(config, groups, step), 1e-3)
        moved = any(not torch.equal(a, b) for a, b in zip(before, weights_of(engine), strict=True))
        told.append((result.skipped, result.loss_scale, moved, result.grad_norm))
    return told


#: Loss scales before each step. A window of 2 good steps doubles them, the first overflow is forgiven, each further one halves,
#: and doubling forgives anew.
SCALES = [1024, 1024, 2048, 2048, 2048, 2048, 1024, 512, 512, 1024, 1024]


@pytest.mark.parametrize("name", covering(ENGINES, ["megatron_1", "deepspeed_3", "deepspeed_grid"]))
def test_loss_scale_grows_backs_off_and_forgives_once(ranks, name):
    world_size, changes = ENGINES[name]
    config = configured(world_size, train__steps=12, **FP16, **changes)
    bad = {3: math.inf, 5: math.inf, 6: math.nan}
    for told in ranks.run(world_size, inject, config, bad, 11):
        assert [skipped for skipped, *_ in told] == [step in bad for step in range(11)]
        assert [moved for _, _, moved, _ in told] == [step not in bad for step in range(11)]
        assert [scale for _, scale, _, _ in told] == SCALES
        assert all(norm is not None and math.isfinite(norm) for skipped, _, _, norm in told if not skipped)


def scaled(world: World, config) -> Outcome:
    claim_fp16(config)
    return train_case(world, config)


OFFLOADED = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
#: What is compared with Megatron-core on one rank.
GROWING = {name: case for name, case in ENGINES.items() if name.startswith("deepspeed")}
GROWING |= {
    f"{name}_offloaded": (2, ENGINES[name][1] | {"engine__deepspeed": OFFLOADED})
    for name in ("deepspeed_2", "deepspeed_3")
}
GROWN = [(name, clip) for name in GROWING for clip in (0.0, 0.5)]


@pytest.fixture(scope="module")
def grown(ranks):
    """`grown(world_size, changes)` gives what eight steps of plain descent make, which half a gradient leads elsewhere."""
    descent = {"optim__name": "sgd", "optim__lr": 0.1, "optim__momentum": 0.0, "optim__nesterov": False}
    descent |= {"schedule__name": "constant", "train__steps": 8} | FP16 | {"precision__loss_scale_window": 3}
    return lambda world_size, changes: ranks.run(world_size, scaled, configured(world_size, **descent, **changes))


@pytest.mark.parametrize(("name", "clip"), covering(GROWN, [("deepspeed_3", 0.0)]))
def test_a_growing_loss_scale_changes_no_update(grown, name, clip):
    world_size, changes = GROWING[name]
    reference = grown(1, {"optim__clip_norm": clip})
    agree(grown(world_size, {"optim__clip_norm": clip, **changes}), reference, tolerance=1e-3, weights=1e-3)


@pytest.mark.parametrize("name", covering(ENGINES, ["megatron_1", "deepspeed_2"]))
def test_overflow_at_the_smallest_scale_is_skipped_like_any_other(ranks, name):
    """DeepSpeed by itself would end the run."""
    world_size, changes = ENGINES[name]
    settings = FP16 | {"precision__min_loss_scale": 512.0, "precision__loss_scale_hysteresis": 1}
    config = configured(world_size, **settings, **changes)
    for told in ranks.run(world_size, inject, config, dict.fromkeys(range(4), math.inf), 5):
        assert [scale for _, scale, _, _ in told] == [1024, 512, 512, 512, 512]
        assert [skipped for skipped, *_ in told] == [True] * 4 + [False]


OPTIMIZERS = {"adamw": {}, "lamb": LAMB}
#: ZeRO-0 of DeepSpeed is there in fp32 alone.
IN_FP32 = ENGINES | {"deepspeed_0": (2, {"engine__name": "deepspeed", "engine__zero_stage": 0})}
SKIPPED = [(name, "fp32", optim) for name in IN_FP32 for optim in OPTIMIZERS]
SKIPPED += [(name, "bf16", "adamw") for name in ENGINES] + [("deepspeed_2", "bf16", "lamb")]


@pytest.mark.parametrize(
    ("name", "precision", "optim"),
    covering(
        SKIPPED,
        [
            ("megatron_0", "fp32", "adamw"),
            ("megatron_1", "bf16", "adamw"),
            ("megatron_grid", "fp32", "lamb"),
            ("deepspeed_0", "fp32", "lamb"),
            ("deepspeed_1", "bf16", "adamw"),
            ("deepspeed_2", "bf16", "lamb"),
            ("deepspeed_3", "fp32", "adamw"),
            ("deepspeed_grid", "fp32", "adamw"),
        ],
    ),
)
def test_a_gradient_that_is_not_finite_is_skipped(ranks, name, precision, optim):
    world_size, changes = IN_FP32[name]
    config = configured(world_size, precision__name=precision, **OPTIMIZERS[optim], **changes)
    for told in ranks.run(world_size, inject, config, {1: math.nan}, 3):
        assert [skipped for skipped, *_ in told] == [False, True, False]
        assert [moved for _, _, moved, _ in told] == [True, False, True]
        assert told[1][3] is None


def diverge(world: World, config, limit: int) -> str:
    try:
        inject(world, config, dict.fromkeys(range(1, 20), math.nan), 10)
    except Diverged as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "limit"),
    covering(
        itertools.product(["megatron_1", "megatron_grid", "deepspeed_3", "deepspeed_grid"], [1, 3]),
        [("megatron_1", 1), ("megatron_grid", 3), ("deepspeed_3", 3), ("deepspeed_grid", 1)],
    ),
)
def test_too_many_in_a_row_end_the_run_and_name_rank_and_parameter(ranks, name, limit):
    world_size, changes = ENGINES[name]
    config = configured(world_size, train__max_skipped=limit, **changes)
    for message in ranks.run(world_size, diverge, config, limit):
        told = "1 update in a row was skipped" if limit == 1 else f"{limit} updates in a row were skipped"
        assert told in message
        # The pipeline's last stage holds the layer; below it everything that the gradient flows into has it too.
        expected = 2 if "grid" in name else 0
        assert f"rank {expected}: layers.3.mlp.down.weight" in message or f"rank {expected}: layers.3" in message
        assert "rank 1: layers" not in message


def broken_loss(world: World, config) -> tuple[bool, bool]:
    engine, groups = build(world, config)
    batches = rank_batches(config, groups, 0)
    before = weights_of(engine)
    # The loss alone is infinite: what it passes back is finite.
    with patch.object(loss_terms, "poisoned_if_not_finite", lambda loss: poisoned_if_not_finite(loss + math.inf)):
        result = engine.train_step(batches, 1e-3)
    return result.skipped, any(not torch.equal(a, b) for a, b in zip(before, weights_of(engine), strict=True))


@pytest.mark.parametrize(
    "name", covering(["megatron_1", "deepspeed_1", "deepspeed_3", "deepspeed_grid"], ["megatron_1", "deepspeed_grid"])
)
def test_a_loss_that_is_not_finite_is_skipped_though_its_gradient_is(ranks, name):
    world_size, changes = ENGINES[name]
    assert set(ranks.run(world_size, broken_loss, configured(world_size, **changes))) == {(True, False)}


def summed(world: World, config, name: str = "layers.3.mlp.down.weight") -> float:
    """By how much a weight moves by plain descent at a rate of 2, where one rank's gradient is 1 and the other's 2^-9."""
    engine, groups = build(world, config)
    share = (1.0, 2.0**-9)[groups.coordinates.data]
    (shard_spec,) = [shard_spec for shard_spec in engine._watch._shard_specs if shard_spec.shards[0].name == name]
    shard_spec.parameter.register_hook(lambda gradient: torch.full_like(gradient, share))
    place = [one.parameter is shard_spec.parameter for one in engine._watch._shard_specs].index(True)
    before = weights_of(engine)[place]
    engine.train_step(rank_batches(config, groups, 0), 2.0)
    return float((before - weights_of(engine)[place]).double().mean())


@pytest.mark.parametrize("name", ["megatron_0", "megatron_1", "deepspeed_1", "deepspeed_2", "deepspeed_3"])
def test_gradients_are_summed_over_ranks_in_fp32_or_in_the_models_type(ranks, name):
    """1 + 2^-9 is a number of fp32; in bf16, which has 8 digits, it is 1."""
    changes = ENGINES[name][1] | {"precision__name": "bf16", "train__global_batch": 2}
    changes |= {"optim__name": "sgd", "optim__weight_decay": 0.0, "optim__clip_norm": 0.0}
    for in_fp32, expected in ((True, 1 + 2.0**-9), (False, 1.0)):
        config = configure(2, precision__reduce_in_fp32=in_fp32, **changes)
        for moved in ranks.run(2, summed, config):
            assert moved == pytest.approx(expected, abs=1e-5)
