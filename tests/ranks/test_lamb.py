"""LAMB on every sharding equals a plain, unsharded one that shares no code with it: weights after 5 steps to 1e-6."""

import functools

import pytest
import torch

from tests.ranks.test_grids import GRIDS
from tests.ranks.training import batch_of, configure, learning_rates, train_case, whole
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
        return ranks.run(world_size, train_case, configure(world_size, **dict(items)))

    return lambda world_size, **changes: run(world_size, tuple(sorted((LAMB | changes).items())))


@pytest.fixture(scope="module")
def reference(train):
    @functools.cache
    def run(items: tuple):
        changes = dict(items)
        config = configure(1, **LAMB, **changes)
        weights = whole(train(1, engine__zero_stage=0, **changes), "initial")
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


@pytest.mark.parametrize("zero_stage", [0, 1])
@pytest.mark.parametrize(
    "name",
    [
        "data2",
        "tensor2",
        "pipeline2",
        "tensor2_pipeline2",
        "data2_tensor2_sequence",
        "data2_pipeline2",
    ],
)
def test_megatron_grids(train, reference, name, zero_stage):
    world_size, changes = GRIDS[name]
    agree(train(world_size, engine__zero_stage=zero_stage, **changes), reference())


@pytest.mark.parametrize("name", ["data4", "tensor4", "data2_pipeline2_virtual2"])
def test_megatron_sharded(train, reference, name):
    world_size, changes = GRIDS[name]
    agree(train(world_size, engine__zero_stage=1, **changes), reference())


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["data2_tensor2", "data2_pipeline2"])
def test_options_on_grids(train, reference, name, options):
    world_size, changes = GRIDS[name]
    agree(train(world_size, engine__zero_stage=1, **changes, **OPTIONS[options]), reference(**OPTIONS[options]))


@pytest.mark.parametrize("name", ["data2", "tensor2_pipeline2"])
def test_bf16_keeps_fp32_masters(train, reference, name):
    world_size, changes = GRIDS[name]
    outcomes = train(world_size, precision__name="bf16", engine__zero_stage=1, **changes)
    losses, _ = reference()
    torch.testing.assert_close(torch.tensor(outcomes[0].losses), torch.tensor(losses), rtol=2e-2, atol=0.0)
    whole(outcomes, "final")
