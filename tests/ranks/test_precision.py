"""Overflow and other gradients that are not finite, injected: updates are skipped, scales move, and long rows of them end
the run with a name."""

import math
from itertools import pairwise
from unittest.mock import patch

import pytest
import torch

from dist_plm.device.stand_in import installed
from dist_plm.engines import loss_terms
from dist_plm.engines.skips import Diverged, poisoned_if_not_finite
from tests.ranks.pool import World
from tests.ranks.test_engines import build
from tests.ranks.test_lamb import LAMB
from tests.ranks.training import configure, rank_batches

pytestmark = pytest.mark.ranks

FP16 = {
    "precision__name": "fp16",
    "precision__initial_loss_scale": 1024.0,
    "precision__loss_scale_window": 2,
    "precision__loss_scale_hysteresis": 2,
    "cluster__device": "auto",  # DeepSpeed's fp16 is refused for cpu by name
}
#: What is run where, and what updates there would be without overflow.
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


def weights_of(engine) -> list[torch.Tensor]:
    return [state.tensors["weight"].clone() for state in engine.parameter_states()]


def inject(world: World, config, bad_steps: dict[int, float], steps: int, name: str = "layers.3.mlp.down.weight"):
    """Trains; in `bad_steps` one rank's gradient of one parameter is multiplied by the value. Returns of each step:
    whether it was skipped, the loss scale, and whether weights moved."""
    assert installed()
    if config.engine.name == "deepspeed" and config.precision.name == "fp16":
        from deepspeed.accelerator import get_accelerator

        get_accelerator().is_fp16_supported = lambda: True
    engine, groups = build(world, config)
    now = {"step": 0}

    def poison(gradient):
        return gradient * bad_steps.get(now["step"], 1.0)

    armed = bool(engine._watch._hooks)
    engine._watch._unwatch()  # hooks run in the order they were made: the poison comes first
    for layout in engine._watch._layouts:
        if layout.pieces[0].name == name and groups.coordinates.data == 0 and groups.coordinates.tensor == 0:
            layout.parameter.register_hook(poison)
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


@pytest.mark.parametrize("name", ENGINES)
def test_loss_scale_grows_backs_off_and_forgives_once(ranks, name):
    world_size, changes = ENGINES[name]
    config = configure(world_size, train__steps=12, **FP16, **changes)
    bad = {3: math.inf, 5: math.inf, 6: math.nan}
    for told in ranks.run(world_size, inject, config, bad, 10):
        assert [skipped for skipped, *_ in told] == [step in bad for step in range(10)]
        assert [moved for _, _, moved, _ in told] == [step not in bad for step in range(10)]
        scales = [scale for _, scale, _, _ in told]
        assert scales[0] == 1024.0
        assert 2048.0 in scales[:4], "never grew"
        assert any(after == before / 2 for before, after in pairwise(scales)), "never backed off"
        assert scales[4] == scales[3], "the first overflow is forgiven: hysteresis is 2"
        assert all(norm is not None and math.isfinite(norm) for skipped, _, _, norm in told if not skipped)


@pytest.mark.parametrize("optim", [{}, LAMB], ids=["adamw", "lamb"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [*ENGINES, "deepspeed_0"])
def test_a_gradient_that_is_not_finite_is_skipped(ranks, name, precision, optim):
    world_size, changes = ENGINES.get(name, (2, {"engine__name": "deepspeed", "engine__zero_stage": 0}))
    if name == "deepspeed_0" and precision == "bf16":
        pytest.skip("refused")
    if optim and precision == "bf16" and name != "deepspeed_2":
        pytest.skip("one such case is enough")
    config = configure(world_size, precision__name=precision, **optim, **changes)
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


@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("name", ["megatron_1", "megatron_grid", "deepspeed_3", "deepspeed_grid"])
def test_too_many_in_a_row_end_the_run_and_name_rank_and_parameter(ranks, name, limit):
    world_size, changes = ENGINES[name]
    config = configure(world_size, train__max_skipped=limit, **changes)
    for message in ranks.run(world_size, diverge, config, limit):
        assert f"{limit} updates in a row were skipped" in message
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


@pytest.mark.parametrize("name", ["megatron_1", "deepspeed_1", "deepspeed_3", "deepspeed_grid"])
def test_a_loss_that_is_not_finite_is_skipped_though_its_gradient_is(ranks, name):
    world_size, changes = ENGINES[name]
    assert set(ranks.run(world_size, broken_loss, configure(world_size, **changes))) == {(True, False)}
