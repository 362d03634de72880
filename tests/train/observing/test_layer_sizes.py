"""Sizes of what layers put out and of their updates are those of one rank, on every grid and engine."""

import math

import pytest
import torch

from dist_plm.train.observing.layer_sizes import LayerSizes, layer_of
from tests.parts import engine_of, model_of
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_grids import GRIDS
from tests.ranks.training import configure, groups_of, learning_rates, losses_of, rank_batches


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("layers.11.mlp.up.weight", "layers.11"),
        ("encoder.layers.0.mlp_norm.bias", "encoder.layers.0"),
        ("embedding.word.weight", "embedding"),
        ("final_norm.weight", "final_norm"),
    ],
)
def test_the_layer_of_a_tensor(name, layer):
    assert layer_of(name) == layer


def sizes_case(world: World, config) -> dict[str, float]:
    """Sizes of the third step."""
    groups = groups_of(world, config)
    device = groups.device.torch_device
    model, _ = model_of(config, groups, device)
    engine = engine_of(config, groups, device, model, losses_of(config))
    sizes = LayerSizes(engine, model, groups)
    rates = learning_rates(config)
    for step in (0, 1):
        engine.train_step(rank_batches(config, groups, step), rates[step])
    with sizes.measuring():
        engine.train_step(rank_batches(config, groups, 2), rates[2])
    return sizes.take()


@pytest.fixture(scope="module")
def one_rank(ranks):
    (sizes,) = ranks.run(1, sizes_case, configure(1))
    return sizes


@pytest.mark.ranks
def test_one_rank_measures_what_they_are(ranks, one_rank):
    """By AdamW the third update of every weight is about the rate."""
    (plain,) = ranks.run(1, by_hand_case, configure(1))
    assert set(one_rank) == {
        *(f"{kind}/layers.{layer}" for kind in ("activation", "update_ratio") for layer in range(4)),
        *("update_ratio/embedding", "update_ratio/final_norm"),
    }
    assert one_rank["update_ratio/layers.2"] == pytest.approx(plain["update"], rel=1e-6)
    assert one_rank["activation/layers.3"] == pytest.approx(plain["output"], rel=1e-6)


def by_hand_case(world: World, config) -> dict[str, float]:
    groups = groups_of(world, config)
    model, _ = model_of(config, groups, groups.device.torch_device)
    engine = engine_of(config, groups, groups.device.torch_device, model, losses_of(config))
    outputs: list[torch.Tensor] = []
    for step, rate in list(enumerate(learning_rates(config)))[:3]:
        weights = {n: p.detach().clone() for n, p in model[0].named_parameters() if n.startswith("layers.2.")}
        if step == 2:
            dict(model[0].named_modules())["layers.3"].register_forward_hook(
                lambda *call: outputs.append(call[-1].detach())
            )
        engine.train_step(rank_batches(config, groups, step), rate)
    now = dict(model[0].named_parameters())
    update = sum(float((now[n].detach() - old).double().square().sum()) for n, old in weights.items())
    norm = sum(float(old.double().square().sum()) for old in weights.values())
    return {
        "update": math.sqrt(update / norm),
        "output": float(torch.cat(outputs, dim=1).double().square().mean().sqrt()),
    }


CELLS = [
    ("data2", "megatron", 0),
    ("data4", "megatron", 1),
    ("data2_tensor2_sequence", "megatron", 1),
    ("tensor2_pipeline2", "megatron", 0),
    ("data2_pipeline2_virtual2", "megatron", 1),
    ("data2", "deepspeed", 0),
    ("data4", "deepspeed", 2),
    ("data2_tensor2", "deepspeed", 3),
    ("data2_pipeline2", "deepspeed", 1),
]


@pytest.mark.ranks
@pytest.mark.parametrize(("grid", "engine", "zero_stage"), covering(CELLS, [CELLS[4], CELLS[7]]))
def test_a_grid_measures_what_one_rank_does(ranks, one_rank, tmp_path, grid, engine, zero_stage):
    size, changes = GRIDS[grid]
    changes = {**changes, "engine__name": engine, "engine__zero_stage": zero_stage, "run__root": str(tmp_path)}
    for sizes in ranks.run(size, sizes_case, configure(size, **changes)):
        assert sizes == pytest.approx(one_rank, rel=1e-4)
