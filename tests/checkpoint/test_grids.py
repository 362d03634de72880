"""A checkpoint saved on one process grid opens on every other: all states to the bit, and the next losses agree."""

import functools

import pytest
import torch

from tests.checkpoint.saving import bytes_read_case, load_case, save_case, whole_states
from tests.ranks.selection import covering
from tests.ranks.test_encoders import MODELS
from tests.ranks.training import configure, few_microbatches

pytestmark = pytest.mark.ranks

STEPS, SAVED_AT = 5, 2
#: Across grids sums are taken in another order.
TOLERANCE = 1e-5

GRIDS = {
    "one": (1, {}),
    "data2": (2, {}),
    "data2_whole_states": (2, {"engine__zero_stage": 0}),
    "tensor2": (2, {"parallel__tensor": 2}),
    "pipeline2": (2, {"parallel__pipeline": 2}),
    "pipeline2_uneven": (2, {"parallel__pipeline": 2, "parallel__stage_layers": (1, 3)}),
    "tensor2_pipeline2": (4, {"parallel__tensor": 2, "parallel__pipeline": 2}),
    "data2_tensor2": (4, {"parallel__tensor": 2}),
    "data2_pipeline2_virtual2": (4, {"parallel__pipeline": 2, "parallel__virtual_pipeline": 2}),
    "deepspeed1_data2": (2, {"engine__name": "deepspeed", "engine__zero_stage": 1}),
    "deepspeed2_data2": (2, {"engine__name": "deepspeed", "engine__zero_stage": 2}),
    "deepspeed3_data2": (2, {"engine__name": "deepspeed", "engine__zero_stage": 3}),
    "deepspeed1_data2_tensor2": (4, {"engine__name": "deepspeed", "engine__zero_stage": 1, "parallel__tensor": 2}),
    "deepspeed2_data2_tensor2": (4, {"engine__name": "deepspeed", "engine__zero_stage": 2, "parallel__tensor": 2}),
    "deepspeed3_data2_tensor2": (4, {"engine__name": "deepspeed", "engine__zero_stage": 3, "parallel__tensor": 2}),
    "deepspeed1_pipeline4": (4, {"engine__name": "deepspeed", "engine__zero_stage": 1, "parallel__pipeline": 4}),
    "data2_context2": (4, {"parallel__context": 2}),
    "deepspeed3_context2": (2, {"engine__name": "deepspeed", "engine__zero_stage": 3, "parallel__context": 2}),
    "tensor4_sequence": (4, {"parallel__tensor": 4, "parallel__sequence_parallel": True}),
}
#: Most grids save once and load once; every kind of change (of tensor, pipeline, context, data degree, ZeRO) is among them.
COVERING = [
    ("one", "tensor2_pipeline2"),
    ("data2", "data2"),
    ("tensor2_pipeline2", "data2"),
    ("data2_tensor2", "pipeline2"),
    ("data2_tensor2", "data2_tensor2"),
    ("pipeline2", "data2_pipeline2_virtual2"),
    ("pipeline2", "pipeline2_uneven"),
    ("pipeline2_uneven", "tensor2_pipeline2"),
    ("data2_pipeline2_virtual2", "data2_whole_states"),
    ("data2_whole_states", "tensor2"),
    ("tensor2", "one"),
    ("tensor2_pipeline2", "deepspeed3_data2"),
    ("deepspeed3_data2", "deepspeed1_data2"),
    ("deepspeed1_data2", "deepspeed2_data2_tensor2"),
    ("deepspeed2_data2_tensor2", "deepspeed2_data2"),
    ("deepspeed2_data2", "pipeline2"),
    ("deepspeed2_data2", "deepspeed2_data2"),
    ("tensor2_pipeline2", "data2_context2"),
    ("data2_context2", "deepspeed3_context2"),
]
#: Whose saving and whose opening others have, of one axis less.
TWICE = [("deepspeed2_data2_tensor2", "deepspeed2_data2"), ("pipeline2_uneven", "tensor2_pipeline2")]
#: LAMB's trust ratios are of whole tensors, whatever holds a part of them.
LAMB = {"optim__name": "lamb"}
#: Its means over rows and columns are logical vectors of their own.
ADAFACTOR = {"optim__name": "adafactor", "optim__eps": 1e-30, "optim__lr": 1e-2}
#: Of its groups by depth, with matrices apart, DeepSpeed's pipelines leave some stages without.
MUON = {"optim__name": "muon", "optim__lr": 5e-3, "optim__eps": 1e-4}
BY_DEPTH = {"optim__layer_decay": 0.5}
SWIGLU = {
    "model__position": "rotary",
    "model__norm": "rmsnorm",
    "model__activation": "swiglu",
    "model__bias": False,
    "model__tied_embeddings": False,
}


def configured(world_size: int, changes: dict):
    given = {"engine__zero_stage": 1, "train__steps": STEPS, **changes}
    return configure(world_size, **few_microbatches(world_size, given))


@pytest.fixture(scope="module")
def saved(ranks, tmp_path_factory):
    @functools.cache
    def save(grid: str, items: tuple):
        world_size, changes = GRIDS[grid]
        directory = tmp_path_factory.mktemp(grid)
        config = configured(world_size, {**changes, **dict(items)})
        return directory, ranks.run(world_size, save_case, config, directory, SAVED_AT)

    return lambda grid, **changes: save(grid, tuple(sorted(changes.items())))


def check(ranks, saved, source: str, target: str, **changes) -> None:
    directory, before = saved(source, **changes)
    world_size, of_target = GRIDS[target]
    config = configured(world_size, {**of_target, **changes})
    after = ranks.run(world_size, load_case, config, directory)
    expected, actual = whole_states(before), whole_states(after)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name
    losses, uninterrupted = after[0].losses, before[0].losses[SAVED_AT:]
    if source == target:
        assert losses == uninterrupted
    else:
        assert losses == pytest.approx(uninterrupted, rel=TOLERANCE)


@pytest.mark.parametrize(("source", "target"), covering(COVERING, [pair for pair in COVERING if pair not in TWICE]))
def test_opens_on_another_grid(ranks, saved, source, target):
    check(ranks, saved, source, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", GRIDS)
@pytest.mark.parametrize("source", GRIDS)
@pytest.mark.parametrize("optim", ["adamw", "lamb"])
def test_opens_on_every_grid(ranks, saved, source, target, optim):
    check(ranks, saved, source, target, optim__name=optim)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("tensor2", "one"),
        ("one", "tensor2_pipeline2"),
        pytest.param("tensor4_sequence", "data2_tensor2", marks=pytest.mark.slow),
    ],
)
def test_fused_gates_and_heads_are_split_anew(ranks, saved, source, target):
    check(ranks, saved, source, target, **SWIGLU)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("data2_tensor2", "one"),
        pytest.param("one", "tensor2_pipeline2", marks=pytest.mark.slow),
        pytest.param("data2", "data2", marks=pytest.mark.slow),
    ],
)
def test_lamb(ranks, saved, source, target):
    check(ranks, saved, source, target, **LAMB)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("tensor2_pipeline2", "deepspeed3_data2"),
        pytest.param("deepspeed3_data2", "pipeline2", marks=pytest.mark.slow),
        pytest.param("data2", "deepspeed2_data2", marks=pytest.mark.slow),
        pytest.param("deepspeed1_data2", "data2", marks=pytest.mark.slow),
    ],
)
def test_frozen_weights(ranks, saved, source, target):
    check(ranks, saved, source, target, train__freeze=("embeddings", "layers.0-1"))


@pytest.mark.parametrize(
    ("model", "source", "target"),
    [
        ("bert", "tensor2_pipeline2", "data2"),
        pytest.param("bert", "deepspeed3_data2", "pipeline2", marks=pytest.mark.slow),
        pytest.param("roberta", "data2_pipeline2_virtual2", "one", marks=pytest.mark.slow),
        pytest.param("electra", "data2_tensor2", "one", marks=pytest.mark.slow),
        ("electra", "one", "deepspeed2_data2"),
        ("t5", "data2_tensor2", "data2"),
        pytest.param("t5", "data2", "deepspeed3_data2", marks=pytest.mark.slow),
        pytest.param("transformer", "one", "tensor2", marks=pytest.mark.slow),
    ],
)
def test_encoders(ranks, saved, model, source, target):
    lamb = LAMB if model == "bert" else {}
    check(ranks, saved, source, target, **MODELS[model], **lamb)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param("data2_tensor2", "one", marks=pytest.mark.slow),
        pytest.param("one", "tensor2_pipeline2", marks=pytest.mark.slow),
        ("tensor2_pipeline2", "deepspeed3_data2"),
        pytest.param("deepspeed3_data2", "data2", marks=pytest.mark.slow),
        pytest.param("data2", "data2", marks=pytest.mark.slow),
        pytest.param("tensor2_pipeline2", "tensor2_pipeline2", marks=pytest.mark.slow),
        pytest.param("deepspeed2_data2_tensor2", "deepspeed2_data2_tensor2", marks=pytest.mark.slow),
        pytest.param("deepspeed3_data2", "deepspeed3_data2", marks=pytest.mark.slow),
    ],
)
def test_adafactor(ranks, saved, source, target):
    check(ranks, saved, source, target, **ADAFACTOR)


@pytest.mark.parametrize(
    "optim", ["muon", *(pytest.param(o, marks=pytest.mark.slow) for o in ("lamb", "adafactor", "adamw"))]
)
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("deepspeed1_pipeline4", "data2_tensor2"),
        pytest.param("data2_tensor2", "deepspeed1_pipeline4", marks=pytest.mark.slow),
        pytest.param("deepspeed1_pipeline4", "deepspeed1_pipeline4", marks=pytest.mark.slow),
    ],
)
def test_groups_that_stages_leave_empty(ranks, saved, source, target, optim):
    settings = {"muon": MUON, "lamb": LAMB, "adafactor": ADAFACTOR, "adamw": {}}[optim]
    check(ranks, saved, source, target, **settings, **BY_DEPTH)


@pytest.mark.parametrize("precision", [pytest.param("bf16", marks=pytest.mark.slow), "fp16"])
def test_masters_and_loss_scale_go_along(ranks, saved, precision):
    check(ranks, saved, "data2", "data2", precision__name=precision)


@pytest.mark.parametrize(
    ("engine", "stage", "changes"),
    [
        ("megatron", 1, {}),
        ("megatron", 1, {"precision__name": "bf16"}),
        ("deepspeed", 3, {}),
        ("deepspeed", 3, {"parallel__context": 2, "train__freeze": ("embeddings",)}),
        *(pytest.param("deepspeed", stage, {}, marks=pytest.mark.slow) for stage in (1, 2)),
    ],
)
def test_ranks_read_what_they_hold(ranks, saved, engine, stage, changes):
    """Rows that two ranks have a part of are read by both."""
    frozen = {name: value for name, value in changes.items() if name == "train__freeze"}
    directory, _ = saved("one", **frozen)
    config = configure(4, engine__name=engine, engine__zero_stage=stage, **changes)
    outcomes = ranks.run(4, bytes_read_case, config, directory)
    total = outcomes[0][0]
    assert total <= sum(read for _, read in outcomes) <= 1.1 * total
    assert max(read for _, read in outcomes) <= 0.4 * total


def test_nothing_in_it_tells_the_grid(saved):
    one, _ = saved("one")
    other, _ = saved("tensor2_pipeline2")

    def described(directory):
        from dist_plm.checkpoint.planner import TensorReader
        from dist_plm.checkpoint.storage import LocalStorage

        reader = LocalStorage(directory).reader("step_00000002")
        tensors = TensorReader(reader, reader.read_metadata()).tensors
        return {name: (tuple(t.size), t.properties.dtype) for name, t in tensors.items()}

    assert described(one) == described(other)
    assert described(one)["model.embedding.word.weight"] == ((211, 64), torch.float32), "padding is not saved"
