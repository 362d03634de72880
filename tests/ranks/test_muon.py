"""Muon on every sharding equals a plain, unsharded one that shares no code with it."""

import functools
import itertools

import pytest
import torch

from tests.ranks.engine_runs import train_case
from tests.ranks.selection import covering
from tests.ranks.test_grids import GRIDS
from tests.ranks.training import batch_of, configure, few_microbatches, learning_rates, whole
from tests.reference import gpt

pytestmark = pytest.mark.ranks

# Without biases: the gradient of a key bias is rounding noise, which a relative tolerance would compare.
MUON = {"model__bias": False, "optim__name": "muon", "optim__lr": 5e-3, "optim__eps": 1e-4}
OPTIONS = {
    "plain": {},
    "without_look_ahead": {"optim__nesterov": False, "optim__newton_schulz_steps": 3},
    "fused_and_padded": {
        "model__norm": "rmsnorm",
        "model__tied_embeddings": False,
        "model__activation": "swiglu",
        "model__kv_heads": 2,
    },
}


@pytest.fixture(scope="module")
def train(ranks, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")

    @functools.cache
    def run(world_size: int, items: tuple):
        changes = few_microbatches(world_size, dict(items))
        return ranks.run(world_size, train_case, configure(world_size, run__root=str(runs), **changes))

    return lambda world_size, **changes: run(world_size, tuple(sorted((MUON | changes).items())))


@pytest.fixture(scope="module")
def reference(train):
    @functools.cache
    def run(options: str):
        config = configure(1, **MUON, **OPTIONS[options])
        weights = whole(train(1, engine__zero_stage=0, **OPTIONS[options]), "initial")
        size = config.train.global_batch
        batches = [batch_of(config, torch.arange(s * size, (s + 1) * size).numpy()) for s in range(config.train.steps)]
        losses, _ = gpt.train(weights, config, batches, learning_rates(config))
        return losses, {name: tensor.detach() for name, tensor in weights.items()}

    return run


def agree(outcomes, expected):
    losses, weights = expected
    for outcome in outcomes:
        torch.testing.assert_close(torch.tensor(outcome.losses), torch.tensor(losses), rtol=1e-5, atol=0.0)
    final, initial = whole(outcomes, "final"), whole(outcomes, "initial")
    assert final.keys() == weights.keys()
    for name, tensor in weights.items():
        error = float((final[name] - tensor).norm() / tensor.norm())
        assert error < 1e-5, f"{name}: {error}"
        assert float((final[name] - initial[name]).norm() / tensor.norm()) > 1e-3, f"{name} has not moved"


#: Engine, ZeRO stage and grid.
SHARDINGS = [
    *itertools.product(["megatron"], [0, 1], ["data2", "tensor2", "pipeline2", "tensor2_pipeline2", "data2_pipeline2"]),
    ("megatron", 1, "data4"),
    ("megatron", 1, "tensor4"),
    ("megatron", 1, "data2_pipeline2_virtual2"),
    *itertools.product(["deepspeed"], [0, 1, 2, 3], ["data2", "tensor2", "data2_tensor2"]),
    ("deepspeed", 1, "pipeline2"),
    *itertools.product(["deepspeed"], [0, 1], ["pipeline4", "pipeline2_virtual2", "data2_pipeline2_virtual2"]),
    ("deepspeed", 1, "tensor2_pipeline2_sequence_virtual2"),
]


@pytest.mark.parametrize(
    ("engine", "zero_stage", "name"),
    covering(
        SHARDINGS,
        [
            ("megatron", 0, "tensor2_pipeline2"),
            ("megatron", 1, "data2_pipeline2_virtual2"),
            ("deepspeed", 2, "data2_tensor2"),
            ("deepspeed", 3, "data2_tensor2"),
            ("deepspeed", 1, "data2_pipeline2_virtual2"),
        ],
    ),
)
def test_shardings(train, reference, engine, zero_stage, name):
    world_size, changes = GRIDS[name]
    agree(train(world_size, engine__name=engine, engine__zero_stage=zero_stage, **changes), reference("plain"))


@pytest.mark.parametrize("options", ["without_look_ahead", "fused_and_padded"])
def test_options_on_a_grid(train, reference, options):
    world_size, changes = GRIDS["data2_tensor2"]
    agree(train(world_size, engine__zero_stage=1, **changes, **OPTIONS[options]), reference(options))
