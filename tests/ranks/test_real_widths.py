"""N ranks = 1 rank at the width and vocabulary of GPT-2 and BERT, where sums that are added up carelessly come apart."""

import functools
from typing import Any

import pytest
import torch

from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_adafactor import ADAFACTOR
from tests.ranks.test_encoders import BERT
from tests.ranks.test_grids import GRIDS
from tests.ranks.test_lamb import LAMB
from tests.ranks.training import build, configure, learning_rates, rank_batches

pytestmark = pytest.mark.ranks

TOLERANCE = 1e-5
WIDE: dict[str, Any] = {
    "model__hidden": 768,
    "model__heads": 12,
    "model__layers": 2,
    "model__init_std": 0.02,
    "train__steps": 5,
    "train__global_batch": 4,
    "train__micro_batch": 2,
}
MODELS = {"gpt2": {"model__vocab_size": 50257}, "bert": BERT | {"model__vocab_size": 30522}}
OPTIMIZERS = {"adamw": {"model__bias": False}, "lamb": LAMB, "adafactor": ADAFACTOR}
#: Engine, ZeRO stage, grid.
SHARDINGS = [
    ("megatron", 0, "tensor2"),
    ("megatron", 1, "data2"),
    ("megatron", 1, "tensor2_pipeline2"),
    ("deepspeed", 1, "data2"),
    ("deepspeed", 3, "data2"),
]


def curves(world: World, config) -> tuple[list[float], list[float | None]]:
    """Losses and gradient norms of each step."""
    engine, groups = build(world, config)
    results = [engine.train_step(rank_batches(config, groups, s), lr) for s, lr in enumerate(learning_rates(config))]
    return [result.loss for result in results], [result.grad_norm for result in results]


@pytest.fixture(scope="module")
def train(ranks, tmp_path_factory):
    runs = str(tmp_path_factory.mktemp("runs"))

    @functools.cache
    def run(world_size: int, model: str, optim: str, items: tuple):
        settings = WIDE | OPTIMIZERS[optim] | MODELS[model] | dict(items)
        return ranks.run(world_size, curves, configure(world_size, run__root=runs, **settings))

    return lambda world_size, model, optim, **changes: run(world_size, model, optim, tuple(sorted(changes.items())))


@pytest.mark.parametrize(
    ("model", "optim", "engine", "zero_stage", "name"),
    covering(
        [(model, optim, *sharding) for model in MODELS for optim in OPTIMIZERS for sharding in SHARDINGS],
        [
            ("gpt2", "lamb", "megatron", 0, "tensor2"),
        ],
    ),
)
def test_grid_equals_one_rank(train, model, optim, engine, zero_stage, name):
    ((losses, norms),) = train(1, model, optim)
    world_size, changes = GRIDS[name]
    settings = changes | {"engine__name": engine, "engine__zero_stage": zero_stage}
    if "parallel__pipeline" in changes:
        settings["train__micro_batch"] = 1
    for theirs in train(world_size, model, optim, **settings):
        torch.testing.assert_close(torch.tensor(theirs[0]), torch.tensor(losses), rtol=TOLERANCE, atol=0.0)
        torch.testing.assert_close(torch.tensor(theirs[1]), torch.tensor(norms), rtol=TOLERANCE, atol=0.0)
