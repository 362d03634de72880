"""LAMB on every sharding equals a plain, unsharded one in fp64 that shares no code with it: weights after 5 steps to 1e-6."""

import functools
import itertools
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from dist_plm.optim import segment_map
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_grids import GRIDS
from tests.ranks.training import (
    batch_of,
    build,
    configure,
    few_microbatches,
    learning_rates,
    rank_batches,
    train_case,
    whole,
)
from tests.reference import gpt

pytestmark = pytest.mark.ranks

# Without biases: the gradient of a key bias is rounding noise, which a relative tolerance would compare.
LAMB = {
    "model__bias": False,
    "optim__name": "lamb",
    "optim__lr": 5e-3,
    "optim__betas": (0.9, 0.999),
    "optim__eps": 1e-4,
    "optim__weight_decay": 0.01,
}
# For weights that agree to a millionth. Biases of norms begin at zero, so that they agree by their updates alone, and in their
# gradients is the rounding of all products after them: 6e-7 with the tiny model's 64 units, 4e-7 with 32. An epsilon far below
# most gradients would scale it up where one is near zero; at this rate all weights still move.
CLOSE_LAMB = LAMB | {"model__hidden": 32, "optim__lr": 1e-2, "optim__eps": 1e-3}
OPTIONS = {
    "paper": {"model__norm": "rmsnorm", "optim__adapt_norms_and_biases": True, "optim__decay_norms_and_biases": True},
    "clipped_ratio": {"optim__trust_min": 0.01, "optim__trust_max": 0.05},
    "biased": {"optim__bias_correction": False},
    "nvlamb": {"optim__pre_normalize": True, "optim__clip_norm": 0.0},
    "fused_and_padded": {
        "model__norm": "rmsnorm",
        "model__tied_embeddings": False,
        "model__activation": "swiglu",
        "model__kv_heads": 2,
    },
}


@pytest.fixture(scope="module")
def train(ranks):
    @functools.cache
    def run(world_size: int, items: tuple):
        return ranks.run(world_size, train_case, configure(world_size, **few_microbatches(world_size, dict(items))))

    return lambda world_size, **changes: run(world_size, tuple(sorted((CLOSE_LAMB | changes).items())))


@pytest.fixture(scope="module")
def reference(train):
    @functools.cache
    def run(items: tuple):
        changes = dict(items)
        config = configure(1, **CLOSE_LAMB, **changes)
        initial = whole(train(1, engine__zero_stage=0, **changes), "initial")
        weights = {name: tensor.double() for name, tensor in initial.items()}
        size = config.train.global_batch
        batches = [batch_of(config, torch.arange(s * size, (s + 1) * size).numpy()) for s in range(config.train.steps)]
        losses, _ = gpt.train(weights, config, batches, learning_rates(config))
        return losses, {name: tensor.detach() for name, tensor in weights.items()}

    return lambda **changes: run(tuple(sorted(changes.items())))


def agree(outcomes, expected, tolerance=1e-6):
    losses, weights = expected
    for outcome in outcomes:
        torch.testing.assert_close(torch.tensor(outcome.losses), torch.tensor(losses), rtol=1e-6, atol=0.0)
    final, initial = whole(outcomes, "final"), whole(outcomes, "initial")
    assert final.keys() == weights.keys()
    for name, tensor in weights.items():
        error = float((final[name] - tensor).norm() / tensor.norm())
        assert error < tolerance, f"{name}: {error}"
        assert float((final[name] - initial[name]).norm() / tensor.norm()) > 1e-3, f"{name} has not moved"


#: Grid and ZeRO stage.
SHARDINGS = [
    *itertools.product(
        ["data2", "tensor2", "pipeline2", "tensor2_pipeline2", "data2_tensor2_sequence", "data2_pipeline2"], [0, 1]
    ),
    ("data4", 1),
    ("tensor4", 1),
    ("data2_pipeline2_virtual2", 1),
]


@pytest.mark.parametrize(
    ("name", "zero_stage"),
    covering(
        SHARDINGS,
        [
            ("data2", 0),
            ("tensor2_pipeline2", 0),
            ("data4", 1),
            ("data2_tensor2_sequence", 1),
            ("data2_pipeline2_virtual2", 1),
        ],
    ),
)
def test_shardings(train, reference, name, zero_stage):
    world_size, changes = GRIDS[name]
    agree(train(world_size, engine__zero_stage=zero_stage, **changes), reference())


@pytest.mark.parametrize(
    ("options", "name"),
    covering(
        itertools.product(OPTIONS, ["data2_tensor2", "data2_pipeline2"]),
        [
            ("paper", "data2_tensor2"),
            ("clipped_ratio", "data2_pipeline2"),
            ("biased", "data2_tensor2"),
            ("nvlamb", "data2_pipeline2"),
            ("fused_and_padded", "data2_tensor2"),
        ],
    ),
)
def test_options_on_grids(train, reference, name, options):
    world_size, changes = GRIDS[name]
    agree(train(world_size, engine__zero_stage=1, **changes, **OPTIONS[options]), reference(**OPTIONS[options]))


@pytest.mark.parametrize("name", covering(["data2", "tensor2_pipeline2"], ["tensor2_pipeline2"]))
def test_bf16_keeps_fp32_masters(train, reference, name):
    world_size, changes = GRIDS[name]
    outcomes = train(world_size, precision__name="bf16", engine__zero_stage=1, **changes)
    losses, _ = reference()
    torch.testing.assert_close(torch.tensor(outcomes[0].losses), torch.tensor(losses), rtol=2e-2, atol=0.0)
    whole(outcomes, "final")


def collectives(world: World, config) -> list[tuple[tuple[int, ...], int]]:
    """Of LAMB in one update: the shape that each is of, and the ranks that take part."""
    found = []

    def all_reduce(sums: torch.Tensor, group: dist.ProcessGroup) -> None:
        found.append((tuple(sums.shape), group.size()))
        dist.all_reduce(sums, group=group)

    engine, groups = build(world, config)
    with patch.object(segment_map, "dist", SimpleNamespace(all_reduce=all_reduce)):
        engine.train_step(rank_batches(config, groups, 0), 1e-3)
    return found


@pytest.mark.parametrize(
    ("engine", "zero_stage", "name", "sizes"),
    [
        ("megatron", 1, "data2_tensor2", [2, 2]),
        ("megatron", 1, "tensor2_pipeline2", [2, 2]),
        ("deepspeed", 2, "data4", [4]),
    ],
)
def test_one_collective_a_group_for_all_layers_together(ranks, tmp_path, engine, zero_stage, name, sizes):
    """The vector of squared norms of all logical tensors; of a pipeline the tied embedding's once more."""
    world_size, changes = GRIDS[name]
    settings = {**LAMB, **changes, "engine__name": engine, "engine__zero_stage": zero_stage}
    config = configure(world_size, run__root=str(tmp_path), **settings)
    for found in ranks.run(world_size, collectives, config):
        assert [size for _, size in found] == sizes
        shapes = [shape for shape, _ in found]
        assert shapes[0][0] == 2
        assert shapes[0][1] > config.model.layers
        assert shapes[-1] == ((2, 1) if "pipeline" in name else shapes[0])
