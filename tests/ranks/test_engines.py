"""DeepSpeed around the same model makes the same updates as one rank of Megatron-core's engine, AdamW and LAMB alike."""

import functools
import json

import pytest
import torch

from dist_plm.engines.base import Engine
from dist_plm.errors import ConfigError
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_grids import GRIDS, MODELS
from tests.ranks.test_lamb import LAMB, OPTIONS
from tests.ranks.training import Outcome, build, configure, learning_rates, rank_batches, whole

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


def pieces_of(engine: Engine) -> dict[str, list]:
    held: dict[str, list] = {}
    for state in engine.parameter_states():
        for piece in state.layout.pieces if "weight" in state.tensors else ():
            values = piece.local(state.tensors["weight"]).clone()
            held.setdefault(piece.name, []).append((piece.start, piece.shape, values))
    return held


def train_case(world: World, config) -> Outcome:
    engine, groups = build(world, config)
    initial = pieces_of(engine)
    results = [engine.train_step(rank_batches(config, groups, s), lr) for s, lr in enumerate(learning_rates(config))]
    sums = engine.eval_step(rank_batches(config, groups, 0))
    return Outcome(
        losses=[r.loss for r in results],
        terms=[dict(r.terms) for r in results],
        norms=[r.grad_norm for r in results],
        evaluation={name: (term.loss, term.correct, term.count) for name, term in sums.items()},
        initial=initial,
        final=pieces_of(engine),
    )


@pytest.fixture(scope="module")
def train(ranks, tmp_path_factory):
    runs = str(tmp_path_factory.mktemp("runs"))

    @functools.cache
    def run(world_size: int, items: tuple):
        return ranks.run(world_size, train_case, configure(world_size, run__root=runs, **dict(items)))

    return lambda world_size, **changes: run(world_size, tuple(sorted(changes.items())))


def agree(outcomes, reference, tolerance=1e-5, weights=1e-5):
    for outcome in outcomes:
        torch.testing.assert_close(
            torch.tensor(outcome.losses), torch.tensor(reference[0].losses), rtol=tolerance, atol=0
        )
        torch.testing.assert_close(
            torch.tensor(outcome.norms), torch.tensor(reference[0].norms), rtol=tolerance, atol=0
        )
        assert outcome.evaluation.keys() == reference[0].evaluation.keys()
        for name, (loss, _, count) in reference[0].evaluation.items():
            assert abs(outcome.evaluation[name][0] / loss - 1) < tolerance
            assert outcome.evaluation[name][2] == count
    initial = whole(outcomes, "initial")
    for name, tensor in whole(reference, "initial").items():
        assert torch.equal(initial[name], tensor), name
    actual, expected = whole(outcomes, "final"), whole(reference, "final")
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        # The gradient of a key bias is rounding noise, which no relative tolerance admits; LAMB's model has none.
        scale = float(tensor.norm()) if weights < 1e-5 else 1.0
        error = float((actual[name] - tensor).norm() / scale)
        assert error < weights, f"{name}: {error}"


@pytest.mark.parametrize(
    ("name", "zero_stage"),
    covering(
        SHARDINGS,
        [
            ("data2", 0),
            ("data2_tensor2_sequence", 2),
            ("data2_tensor2", 3),
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
            ("data2_tensor2", 0),
            ("data2_pipeline2", 1),
            ("data4", 2),
            ("data2_tensor2_sequence", 3),
            ("tensor2_pipeline2_sequence_virtual2", 1),
        ],
    ),
)
def test_lamb_to_a_millionth(train, name, zero_stage):
    """Its weights; one rank of Megatron-core's engine equals the plain reference in test_lamb."""
    world_size, changes = GRIDS[name]
    outcomes = train(world_size, engine__name="deepspeed", engine__zero_stage=zero_stage, **LAMB, **changes)
    agree(outcomes, train(1, **LAMB), weights=1e-6)


@pytest.mark.parametrize(
    ("options", "name", "zero_stage"),
    covering(
        [(o, *grid) for o in OPTIONS for grid in (("data2_tensor2", 3), ("data2_pipeline2", 1))],
        [
            ("paper", "data2_pipeline2", 1),
            ("clipped_ratio", "data2_tensor2", 3),
            ("biased", "data2_pipeline2", 1),
            ("nvlamb", "data2_tensor2", 3),
            ("fused_and_padded", "data2_tensor2", 3),
        ],
    ),
)
def test_options_of_lamb(train, name, zero_stage, options):
    world_size, changes = GRIDS[name]
    settings = LAMB | OPTIONS[options]
    outcomes = train(world_size, engine__name="deepspeed", engine__zero_stage=zero_stage, **settings, **changes)
    agree(outcomes, train(1, **settings), weights=1e-6)


OTHERS = ["uneven_labels", "llama", "rotary_documents"]
GRIDS_OF_OTHERS = [("data2", 3), ("data2_tensor2_sequence", 2), ("tensor2_pipeline2", 1)]


@pytest.mark.parametrize(
    ("model", "name", "zero_stage"),
    covering(
        [(model, *grid) for model in OTHERS for grid in GRIDS_OF_OTHERS],
        [(model, *grid) for model, grid in zip(OTHERS, GRIDS_OF_OTHERS, strict=True)],
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


@pytest.mark.parametrize(
    ("optim", "name", "zero_stage"),
    covering(
        [(o, *g) for o in OPTIMIZERS for g in (("data2", 1), ("data2", 2), ("data2", 3), ("tensor2_pipeline2", 1))],
        [("adamw", "data2", 3), ("adamw", "tensor2_pipeline2", 1), ("lamb", "data2", 1), ("lamb", "data2", 2)],
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
