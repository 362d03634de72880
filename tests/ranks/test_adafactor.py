"""Adafactor on every sharding equals transformers' on one process: weights after 5 steps."""

import functools

import pytest
import torch

from tests.ranks.engine_runs import train_case
from tests.ranks.selection import covering
from tests.ranks.test_encoders import T5
from tests.ranks.test_grids import GRIDS
from tests.ranks.test_lamb import agree as compare
from tests.ranks.training import batch_of, configure, few_microbatches, learning_rates, whole
from tests.reference import gpt

pytestmark = pytest.mark.ranks

# Without biases: the gradient of a key bias is rounding noise, which a relative tolerance would compare.
ADAFACTOR = {
    "model__bias": False,
    "optim__name": "adafactor",
    "optim__lr": 1e-2,
    "optim__eps": 1e-30,
    "optim__weight_decay": 0.0,
}
OPTIONS = {
    "plain_rate": {"optim__scale_parameter": False, "optim__lr": 1e-3},
    "decayed_and_hardly_clipped": {"optim__weight_decay": 0.1, "optim__update_clip": 3.0, "optim__beta2_decay": 0.5},
    "fused_and_padded": {
        "model__norm": "rmsnorm",
        "model__tied_embeddings": False,
        "model__activation": "swiglu",
        "model__kv_heads": 2,
    },
}
#: Where the gradients of an element of a vector nearly cancel, their rounding shows: no epsilon to speak of is added.
agree = functools.partial(compare, tolerance=5e-6)
#: Engine, ZeRO stage, grid.
SHARDINGS = [
    ("megatron", 0, "tensor2"),
    ("megatron", 0, "tensor2_pipeline2"),
    ("megatron", 1, "data4"),
    ("megatron", 1, "tensor4"),
    ("megatron", 1, "data2_tensor2_sequence"),
    ("megatron", 1, "data2_pipeline2_virtual2"),
    ("deepspeed", 0, "pipeline2"),
    ("deepspeed", 1, "data2_pipeline2"),
    ("deepspeed", 1, "tensor2_pipeline2"),
    ("deepspeed", 2, "data4"),
    ("deepspeed", 2, "data2_tensor2"),
    ("deepspeed", 3, "data4"),
    ("deepspeed", 3, "data2_tensor2_sequence"),
]
#: Of every kind one.
QUICK = [
    ("megatron", 1, "data2_tensor2_sequence"),
    ("megatron", 1, "data2_pipeline2_virtual2"),
    ("deepspeed", 1, "data2_pipeline2"),
    ("deepspeed", 2, "data2_tensor2"),
    ("deepspeed", 3, "data2_tensor2_sequence"),
]


@pytest.fixture(scope="module")
def train(ranks, tmp_path_factory):
    runs = str(tmp_path_factory.mktemp("runs"))

    @functools.cache
    def run(world_size: int, items: tuple):
        changes = few_microbatches(world_size, dict(items))
        return ranks.run(world_size, train_case, configure(world_size, run__root=runs, **changes))

    return lambda world_size, **changes: run(world_size, tuple(sorted((ADAFACTOR | changes).items())))


@pytest.fixture(scope="module")
def reference(train):
    @functools.cache
    def run(items: tuple):
        changes = dict(items)
        config = configure(1, **(ADAFACTOR | changes))
        weights = whole(train(1, engine__zero_stage=0, **changes), "initial")
        size = config.train.global_batch
        batches = [batch_of(config, torch.arange(s * size, (s + 1) * size).numpy()) for s in range(config.train.steps)]
        losses, _ = gpt.train(weights, config, batches, learning_rates(config))
        return losses, {name: tensor.detach() for name, tensor in weights.items()}

    return lambda **changes: run(tuple(sorted(changes.items())))


@pytest.mark.parametrize("options", ["published", *OPTIONS])
def test_one_rank(train, reference, options):
    changes = OPTIONS.get(options, {})
    agree(train(1, engine__zero_stage=0, **changes), reference(**changes))


@pytest.mark.parametrize(
    ("engine", "zero_stage", "name"),
    covering(SHARDINGS, QUICK),
)
def test_shardings(train, reference, engine, zero_stage, name):
    world_size, changes = GRIDS[name]
    agree(train(world_size, engine__name=engine, engine__zero_stage=zero_stage, **changes), reference())


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    ("engine", "zero_stage", "name"), [("megatron", 1, "data2_pipeline2"), ("deepspeed", 3, "data2_tensor2")]
)
def test_options(train, reference, engine, zero_stage, name, options):
    world_size, changes = GRIDS[name]
    more = OPTIONS[options]
    agree(
        train(world_size, engine__name=engine, engine__zero_stage=zero_stage, **changes, **more),
        reference(**more),
    )


@pytest.mark.parametrize(
    ("engine", "zero_stage", "name"),
    covering([("megatron", 1, "data2_tensor2"), ("deepspeed", 3, "data2")], [("megatron", 1, "data2_tensor2")]),
)
def test_t5(train, engine, zero_stage, name):
    """The model that it is for: an encoder and a decoder, tables of relative positions. The grid against one rank."""
    alone = train(1, engine__zero_stage=0, **T5)
    world_size, changes = GRIDS[name]
    outcomes = train(world_size, engine__name=engine, engine__zero_stage=zero_stage, **changes, **T5)
    compare(outcomes, (alone[0].losses, whole(alone, "final")), tolerance=2e-5)
