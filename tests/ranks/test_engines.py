"""DeepSpeed around the same model makes the same updates as one rank of Megatron-core's engine, AdamW and LAMB alike."""

import itertools
import json

import pytest
import torch

from dist_plm.core.errors import ConfigError
from tests.ranks.engine_runs import agree, trainer
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_adafactor import ADAFACTOR
from tests.ranks.test_grids import GRIDS, MODELS, grid
from tests.ranks.test_lamb import CLOSE_LAMB, LAMB, OPTIONS
from tests.ranks.test_muon import MUON
from tests.ranks.training import build, configure, whole

pytestmark = pytest.mark.ranks

#: Zero stage by grid: 2 and 3 do not go with a pipeline.
SHARDINGS = [
    ("data2", 0),
    ("data2", 1),
    ("data2", 2),
    ("data2", 3),
    ("data4", 2),
    ("data4", 3),
    ("tensor2", 1),
    ("data2_tensor2", 0),
    ("data2_tensor2", 3),
    ("data2_tensor2_sequence", 1),
    ("data2_tensor2_sequence", 2),
    ("data2_tensor2_sequence", 3),
    ("pipeline2", 0),
    ("pipeline4", 1),
    ("data2_pipeline2", 1),
    ("tensor2_pipeline2", 0),
    ("tensor2_pipeline2", 1),
    ("data2_pipeline2_virtual2", 1),
    ("tensor2_pipeline2_sequence_virtual2", 1),
]


OPTIMIZERS = {"adamw": {}, "lamb": LAMB}


@pytest.fixture(scope="module")
def train(ranks, tmp_path_factory):
    return trainer(ranks, tmp_path_factory.mktemp("runs"), short=True)


@pytest.mark.parametrize(
    ("name", "zero_stage"),
    covering(
        SHARDINGS,
        [
            ("data2", 0),
            ("data2_tensor2_sequence", 2),
            ("tensor2_pipeline2", 1),
            ("data2_pipeline2_virtual2", 1),
        ],
    ),
)
def test_adamw(train, name, zero_stage):
    world_size, changes = GRIDS[name]
    agree(train(world_size, engine__name="deepspeed", engine__zero_stage=zero_stage, **changes), train(1))


@pytest.mark.parametrize(
    ("name", "zero_stage"),
    covering(
        SHARDINGS,
        [
            ("data4", 2),
            ("data2_tensor2_sequence", 3),
            ("tensor2_pipeline2_sequence_virtual2", 1),
        ],
    ),
)
def test_lamb_to_a_millionth(train, name, zero_stage):
    """Its weights; one rank of Megatron-core's engine equals the plain reference in test_lamb."""
    world_size, changes = GRIDS[name]
    outcomes = train(world_size, engine__name="deepspeed", engine__zero_stage=zero_stage, **CLOSE_LAMB, **changes)
    agree(outcomes, train(1, **CLOSE_LAMB), weights=1e-6)


@pytest.mark.parametrize(
    ("options", "name", "zero_stage"),
    covering(
        [(o, *grid) for o in OPTIONS for grid in (("data2_tensor2", 3), ("data2_pipeline2", 1))],
        [
            ("paper", "data2_pipeline2", 1),
            ("nvlamb", "data2_tensor2", 3),
            ("fused_and_padded", "data2_tensor2", 3),
        ],
    ),
)
def test_options_of_lamb(train, name, zero_stage, options):
    world_size, changes = GRIDS[name]
    settings = CLOSE_LAMB | OPTIONS[options]
    outcomes = train(world_size, engine__name="deepspeed", engine__zero_stage=zero_stage, **settings, **changes)
    agree(outcomes, train(1, **settings), weights=1e-6)


OTHERS = ["uneven_labels", "llama", "rotary_documents", "prefix_documents"]
GRIDS_OF_OTHERS = [("data2", 3), ("data2_tensor2_sequence", 2), ("tensor2_pipeline2", 1)]


@pytest.mark.parametrize(
    ("model", "name", "zero_stage"),
    covering(
        [(model, *grid) for model in OTHERS for grid in GRIDS_OF_OTHERS],
        [(model, *grid) for model, grid in zip(OTHERS[:3], GRIDS_OF_OTHERS, strict=True)],
    ),
)
def test_models(train, model, name, zero_stage):
    world_size, changes = GRIDS[name]
    settings = MODELS[model] | {"train__micro_batch": 2}
    outcomes = train(world_size, engine__name="deepspeed", engine__zero_stage=zero_stage, **settings, **changes)
    agree(outcomes, train(1, **settings))


@pytest.mark.parametrize(
    ("name", "zero_stage"),
    covering(
        [("data2", 2), ("data2_tensor2_sequence", 3), ("data2_pipeline2", 1)],
        [("data2_tensor2_sequence", 3), ("data2_pipeline2", 1)],
    ),
)
def test_dropout_and_recomputation_are_the_same(train, name, zero_stage):
    world_size, changes = GRIDS[name]
    dropout = {"model__hidden_dropout": 0.1, "model__attention_dropout": 0.1}
    more = changes | dropout | {"model__recompute": "full"}
    agree(train(world_size, engine__name="deepspeed", engine__zero_stage=zero_stage, **more), train(1, **dropout))


@pytest.mark.parametrize(
    ("name", "zero_stage"), [("data2", 3), pytest.param("data2_tensor2", 1, marks=pytest.mark.slow)]
)
def test_layers_slow_down_alike(train, name, zero_stage):
    world_size, changes = GRIDS[name]
    settings = {"optim__layer_decay": 0.5, "optim__lr": 1e-2}
    reference = train(1, **settings)
    agree(train(world_size, engine__name="deepspeed", engine__zero_stage=zero_stage, **settings, **changes), reference)
    plain = whole(train(1, optim__lr=1e-2), "final")["embedding.word.weight"]
    assert (whole(reference, "final")["embedding.word.weight"] - plain).abs().max() > 1e-3


#: Stages without a group of some depth, without matrices that Muon sets apart, and both.
CUTS = {
    **{name: GRIDS[name] for name in ("pipeline2", "pipeline4", "data2_pipeline2", "tensor2_pipeline2")},
    "no_layer_in_the_first": grid(2, pipeline=2, stage_layers=(0, 4)),
    "no_layer_in_the_last": grid(2, pipeline=2, stage_layers=(4, 0)),
    "no_layer_at_the_ends": grid(4, pipeline=4, stage_layers=(0, 2, 2, 0)),
    "no_layer_at_the_ends_of_chunks": grid(4, pipeline=2, virtual_pipeline=2, stage_layers=(0, 3, 1, 0)),
}
WITH_EMPTY_GROUPS = {
    "adamw": {},
    "sgd": {"optim__name": "sgd", "optim__lr": 0.1, "optim__momentum": 0.9},
    "lamb": CLOSE_LAMB,
    "adafactor": ADAFACTOR,
    "muon": MUON,
}


@pytest.mark.parametrize(
    ("optim", "cut", "zero_stage", "layer_decay"),
    covering(
        [
            *itertools.product(WITH_EMPTY_GROUPS, CUTS, [0, 1], [0.5]),
            *itertools.product(["muon"], CUTS, [0, 1], [1.0]),
        ],
        [
            ("adamw", "data2_pipeline2", 1, 0.5),
            ("lamb", "pipeline2", 0, 0.5),
            ("adafactor", "no_layer_in_the_first", 1, 0.5),
            ("muon", "no_layer_in_the_last", 1, 1.0),
            ("muon", "pipeline4", 1, 0.5),
        ],
    ),
)
def test_stages_that_leave_groups_empty(train, optim, cut, zero_stage, layer_decay):
    (world_size, changes), settings = CUTS[cut], {**WITH_EMPTY_GROUPS[optim], "optim__layer_decay": layer_decay}
    outcomes = train(world_size, engine__name="deepspeed", engine__zero_stage=zero_stage, **settings, **changes)
    reference = train(1, **settings)
    agree(outcomes, reference)
    if layer_decay < 1.0:
        plain = whole(train(1, **WITH_EMPTY_GROUPS[optim]), "final")["embedding.word.weight"]
        assert (whole(reference, "final")["embedding.word.weight"] - plain).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("engine", "name", "zero_stage"),
    [
        pytest.param("megatron", "data2_tensor2", 1, marks=pytest.mark.slow),
        ("deepspeed", "data2_tensor2", 3),
    ],
)
def test_smoothed_labels_are_learned_alike(train, engine, name, zero_stage):
    world_size, changes = GRIDS[name]
    settings = {"objective__label_smoothing": 0.1, "objective__z_loss": 1e-3}
    reference = train(1, **settings)
    agree(train(world_size, engine__name=engine, engine__zero_stage=zero_stage, **settings, **changes), reference)
    assert reference[0].losses[0] > train(1)[0].losses[0] + 0.01


@pytest.mark.parametrize(
    ("optim", "name", "zero_stage"),
    covering(
        [(o, *g) for o in OPTIMIZERS for g in (("data2", 1), ("data2", 2), ("data2", 3), ("tensor2_pipeline2", 1))],
        [("adamw", "data2", 3), ("adamw", "tensor2_pipeline2", 1), ("lamb", "data2", 2)],
    ),
)
def test_bf16_stays_close(train, name, zero_stage, optim):
    world_size, changes = GRIDS[name]
    settings = {"precision__name": "bf16", **OPTIMIZERS[optim], **changes}
    outcomes = train(world_size, engine__name="deepspeed", engine__zero_stage=zero_stage, **settings)
    reference = train(1, precision__name="bf16", engine__zero_stage=1, **OPTIMIZERS[optim])
    torch.testing.assert_close(torch.tensor(outcomes[0].losses), torch.tensor(reference[0].losses), rtol=1e-3, atol=0)
    torch.testing.assert_close(torch.tensor(outcomes[0].norms), torch.tensor(reference[0].norms), rtol=2e-2, atol=0)
    whole(outcomes, "final")


def build_case(world: World, config) -> str:
    try:
        build(world, config)
    except ConfigError as refusal:
        return str(refusal)
    return ""


def test_the_json_is_written_and_unknown_keys_are_refused(ranks, tmp_path):
    settings = {"engine__name": "deepspeed", "engine__zero_stage": 2, "run__root": str(tmp_path)}
    extra = {"zero_optimization": {"contiguous_gradients": False}, "prescale_gradients": False}
    assert ranks.run(1, build_case, configure(1, **settings, engine__deepspeed=extra)) == [""]
    written = json.loads((tmp_path / "test" / "deepspeed.json").read_text())
    assert written["zero_optimization"]["stage"] == 2
    assert written["zero_optimization"]["contiguous_gradients"] is False
    assert written["gradient_clipping"] == 1.0
    wrong = {"zero_optimisation": {"stage": 2}, "zero_optimization": {"overlap_com": True}}
    (message,) = ranks.run(1, build_case, configure(1, **settings, engine__deepspeed=wrong))
    assert (
        "engine.deepspeed.zero_optimisation is not a setting of DeepSpeed; did you mean zero_optimization?" in message
    )
    assert "engine.deepspeed.zero_optimization.overlap_com" in message
    assert "did you mean overlap_comm?" in message


def build_without_fp16(world: World, config) -> str:
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: False
    return build_case(world, config)


def test_fp16_is_refused_where_the_device_has_none(ranks, tmp_path):
    settings = {"engine__name": "deepspeed", "precision__name": "fp16", "run__root": str(tmp_path)}
    config = configure(1, **settings, engine__zero_stage=1, cluster__device="auto")
    (message,) = ranks.run(1, build_without_fp16, config)
    assert "precision.name = 'fp16' is refused by DeepSpeed on this device" in message
