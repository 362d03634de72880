"""N ranks = 1 rank = a plain PyTorch GPT: losses, gradient norms and weights, for every process grid over up to 4 ranks."""

import functools
import itertools

import pytest
import torch

from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.training import VOCAB, batch_of, build, configure, few_steps, learning_rates, train_case, whole
from tests.reference import gpt

pytestmark = pytest.mark.ranks

TOLERANCE = 1e-5

#: Kinds of models: each is trained on one rank, compared with the reference, and then on grids.
MODELS = {
    "gpt2": {},
    "uneven_labels": {"train__seed": 7},
    "llama": {
        "model__position": "rotary",
        "model__norm": "rmsnorm",
        "model__activation": "swiglu",
        "model__bias": False,
        "model__tied_embeddings": False,
        "model__kv_heads": 2,
    },
    "documents": {"objective__document_mask": True, "objective__reset_positions": True},
    "sinusoidal": {"model__position": "sinusoidal", "model__activation": "gelu"},
    "relu": {"model__activation": "relu"},
    "rotary_documents": {
        "model__position": "rotary",
        "model__activation": "gelu",
        "objective__document_mask": True,
        "objective__reset_positions": True,
    },
    "prefix": {"objective__name": "prefix_lm"},
    "prefix_documents": {
        "model__position": "rotary",
        "model__norm": "rmsnorm",
        "model__activation": "swiglu",
        "model__bias": False,
        "model__tied_embeddings": False,
        "model__kv_heads": 2,
        "objective__name": "prefix_lm",
        "objective__document_mask": True,
        "objective__reset_positions": True,
    },
    "ul2": {"objective__name": "ul2"},
}


def grid(ranks: int, **changes):
    return ranks, {f"parallel__{k}": v for k, v in changes.items()}


GRIDS = {
    "data2": grid(2),
    "data4": grid(4),
    "tensor2": grid(2, tensor=2),
    "tensor4": grid(4, tensor=4),
    "tensor2_sequence": grid(2, tensor=2, sequence_parallel=True),
    "tensor4_sequence": grid(4, tensor=4, sequence_parallel=True),
    "pipeline2": grid(2, pipeline=2),
    "pipeline4": grid(4, pipeline=4),
    "pipeline2_uneven": grid(2, pipeline=2, stage_layers=(3, 1)),
    "pipeline2_virtual2": grid(2, pipeline=2, virtual_pipeline=2),
    "tensor2_pipeline2": grid(4, tensor=2, pipeline=2),
    "tensor2_pipeline2_sequence_virtual2": grid(4, tensor=2, pipeline=2, sequence_parallel=True, virtual_pipeline=2),
    "data2_tensor2": grid(4, tensor=2),
    "data2_tensor2_sequence": grid(4, tensor=2, sequence_parallel=True),
    "data2_pipeline2": grid(4, pipeline=2),
    "data2_pipeline2_virtual2": grid(4, pipeline=2, virtual_pipeline=2),
}


@pytest.fixture(scope="module")
def train(ranks):
    @functools.cache
    def run(world_size: int, items: tuple):
        return ranks.run(world_size, train_case, configure(world_size, **few_steps(world_size, dict(items))))

    return lambda world_size, **changes: run(world_size, tuple(sorted(changes.items())))


def close(actual, expected, tolerance=TOLERANCE):
    torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), rtol=tolerance, atol=0.0)


def agree(outcomes, reference, tolerance=TOLERANCE, weights=TOLERANCE):
    for outcome in outcomes:
        close(outcome.losses, reference[0].losses, tolerance)
        close(outcome.norms, reference[0].norms, tolerance)
        assert outcome.evaluation.keys() == reference[0].evaluation.keys()
        for name, (loss, correct, count) in reference[0].evaluation.items():
            close(outcome.evaluation[name][0], loss, tolerance)
            assert abs(outcome.evaluation[name][1] - correct) <= (0 if tolerance <= TOLERANCE else 8)
            assert outcome.evaluation[name][2] == count
    actual, expected = whole(outcomes, "final"), whole(reference, "final")
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=weights, atol=weights, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("model", MODELS)
def test_one_rank_equals_plain_pytorch(train, model):
    changes = MODELS[model]
    outcomes = train(1, **changes)
    config = configure(1, **few_steps(1, changes))
    weights = whole(outcomes, "initial")
    size = config.train.global_batch
    batches = [batch_of(config, torch.arange(s * size, (s + 1) * size).numpy()) for s in range(config.train.steps)]
    losses, norms = gpt.train(weights, config, batches, learning_rates(config))
    close(outcomes[0].losses, losses)
    close(outcomes[0].norms, norms)
    final = whole(outcomes, "final")
    assert final.keys() == weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(final[name], tensor.detach(), rtol=TOLERANCE, atol=TOLERANCE)
    assert final["embedding.word.weight"].shape == (VOCAB, config.model.hidden)


@pytest.mark.parametrize("name", GRIDS)
def test_grid_equals_one_rank(train, name):
    world_size, changes = GRIDS[name]
    outcomes = train(world_size, engine__zero_stage=1, **changes)
    reference = train(1)
    initial = whole(outcomes, "initial")
    for tensor_name, tensor in whole(reference, "initial").items():
        assert torch.equal(initial[tensor_name], tensor), tensor_name
    agree(outcomes, reference)


@pytest.mark.parametrize(
    "name",
    covering(
        ["data2", "tensor2", "tensor2_pipeline2", "data2_tensor2_sequence", "data2_pipeline2"],
        ["data2", "tensor2_pipeline2", "data2_tensor2_sequence"],
    ),
)
def test_whole_optimizer_state_equals_sharded(train, name):
    world_size, changes = GRIDS[name]
    agree(train(world_size, engine__zero_stage=0, **changes), train(1))


def wrapper_of(world: World, config) -> str:
    engine, _ = build(world, config)
    return type(engine._optimizer).__name__  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("name", "precision", "wrapper"),
    [
        ("data2", "fp32", "ShardedMasterWeights"),
        ("tensor2", "fp32", "FP32Optimizer"),
        ("tensor2", "bf16", "MasterWeights"),
    ],
)
def test_one_data_rank_shards_nothing(ranks, name, precision, wrapper):
    """What it holds anyway is neither cut nor gathered, whatever the stage."""
    world_size, changes = GRIDS[name]
    config = configure(world_size, engine__zero_stage=1, precision__name=precision, **changes)
    assert ranks.run(world_size, wrapper_of, config) == [wrapper] * world_size


@pytest.mark.parametrize(
    ("name", "micro_batch"),
    covering(
        itertools.product(["data2", "data2_tensor2", "pipeline2"], [1, 4]),
        [("data2", 1), ("data2_tensor2", 4), ("pipeline2", 1), ("pipeline2", 4)],
    ),
)
def test_micro_batch_does_not_matter(train, name, micro_batch):
    world_size, changes = GRIDS[name]
    agree(train(world_size, train__micro_batch=micro_batch, **changes), train(1))


GRIDS_OF_MODELS = ["data2_tensor2_sequence", "tensor2_pipeline2", "data2_pipeline2_virtual2"]
CLOSED = ["uneven_labels", "llama", "rotary_documents"]
OPENED = ["prefix", "prefix_documents", "ul2"]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        *covering(
            itertools.product(CLOSED, GRIDS_OF_MODELS),
            [
                *itertools.product(["uneven_labels", "llama"], ["data2_tensor2_sequence"]),
                *itertools.product(["llama", "rotary_documents"], ["tensor2_pipeline2"]),
                *itertools.product(["uneven_labels", "rotary_documents"], ["data2_pipeline2_virtual2"]),
            ],
        ),
        *covering(itertools.product(OPENED, GRIDS_OF_MODELS), zip(OPENED, reversed(GRIDS_OF_MODELS), strict=True)),
    ],
)
def test_models_on_grids(train, model, name):
    world_size, changes = GRIDS[name]
    if model == "llama" and changes.get("parallel__tensor", 1) > 2:
        pytest.fail("kv_heads=2 cannot be split further: choose another grid")
    agree(train(world_size, engine__zero_stage=1, **changes, **MODELS[model]), train(1, **MODELS[model]))


@pytest.mark.parametrize(("recompute", "model"), [("selective", "gpt2"), ("full", "gpt2"), ("selective", "prefix")])
def test_recomputation_changes_nothing(train, recompute, model):
    dropout = {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1, **MODELS[model]}
    world_size, changes = GRIDS["tensor2_pipeline2"]
    agree(train(world_size, model__recompute=recompute, **changes, **dropout), train(1, **dropout), 1e-5)


@pytest.mark.parametrize(
    "name",
    covering(
        ["data2", "tensor2", "tensor2_sequence", "data2_pipeline2", "tensor2_pipeline2"],
        ["tensor2_sequence", "data2_pipeline2", "tensor2_pipeline2"],
    ),
)
def test_dropout_is_the_same_on_every_grid(train, name):
    dropout = {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1}
    world_size, changes = GRIDS[name]
    reference = train(1, **dropout)
    agree(train(world_size, train__micro_batch=2, **changes, **dropout), reference)
    assert abs(reference[0].losses[0] - train(1)[0].losses[0]) > 1e-4


@pytest.mark.parametrize("name", ["data2", "tensor2_sequence", "tensor2_pipeline2"])
def test_bf16_stays_close(train, name):
    world_size, changes = GRIDS[name]
    outcomes = train(world_size, precision__name="bf16", engine__zero_stage=1, **changes)
    agree(outcomes, train(1), 2e-2, 2e-2)


@pytest.mark.parametrize("name", covering(["data2", "tensor2_sequence", "tensor2_pipeline2"], ["tensor2_pipeline2"]))
def test_fp8_is_the_same_on_every_grid_and_stays_close(train, name):
    """Scales are powers of two, so that a rank's part of a tensor is rounded as the whole of it is."""
    world_size, changes = GRIDS[name]
    outcomes = train(world_size, precision__name="fp8", engine__zero_stage=1, **changes)
    reference = train(1, precision__name="fp8")
    # Sums of tensor ranks are rounded to bf16 before they are added, and what is near a step of 8 bits then goes the other way.
    agree(outcomes, reference, 2e-2, 1e-2)
    close(outcomes[0].losses, reference[0].losses, 2e-3)
    agree(outcomes, train(1), 5e-2, 5e-2)


def test_overlapped_communication_equals_plain(train):
    overlap = {"engine__overlap_grad_reduce": True, "engine__overlap_param_gather": True, "engine__zero_stage": 1}
    agree(train(2, **overlap), train(1))
