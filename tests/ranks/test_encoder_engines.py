"""BERT, ELECTRA and T5 under DeepSpeed, LAMB, half precision and rates that fall by layer: as one rank of Megatron-core's
engine in fp32."""

import pytest

from tests.ranks.engine_runs import agree, trainer
from tests.ranks.selection import covering
from tests.ranks.test_encoders import BERT, ELECTRA, T5
from tests.ranks.test_grids import GRIDS
from tests.ranks.test_grids import agree as agree_roughly
from tests.ranks.test_lamb import LAMB
from tests.ranks.training import whole

pytestmark = pytest.mark.ranks

MODELS = {"bert": BERT, "electra": ELECTRA, "t5": T5}
#: Each family with a sharding of gradients or weights, one on a grid, LAMB with the sharding of weights; the rest is `slow`.
QUICK = {
    ("bert", "lamb", "data2_tensor2_sequence", 3),
    ("electra", "adamw", "data2", 3),
    ("t5", "adamw", "data2", 2),
}
SHARDINGS = [("data2", 1), ("data2", 2), ("data2", 3), ("data2_tensor2_sequence", 2), ("data2_tensor2_sequence", 3)]
CELLS = [(m, optim, name, stage) for m in MODELS for optim in ("adamw", "lamb") for name, stage in SHARDINGS]
CELLS += [("bert", optim, name, 1) for optim in ("adamw", "lamb") for name in ("tensor2_pipeline2", "data2_pipeline2")]


@pytest.fixture(scope="module")
def train(ranks, tmp_path_factory):
    return trainer(ranks, tmp_path_factory.mktemp("runs"), short=True)


@pytest.mark.parametrize(("model", "optim", "name", "zero_stage"), covering(CELLS, QUICK))
def test_deepspeed(train, model, optim, name, zero_stage):
    world_size, changes = GRIDS[name]
    settings = MODELS[model] | (LAMB if optim == "lamb" else {})
    outcomes = train(world_size, engine__name="deepspeed", engine__zero_stage=zero_stage, **settings, **changes)
    agree(outcomes, train(1, **settings))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        pytest.param("bert", "data2_tensor2_sequence", marks=pytest.mark.slow),
        pytest.param("bert", "tensor2_pipeline2", marks=pytest.mark.slow),
        pytest.param("t5", "tensor2_sequence", marks=pytest.mark.slow),
        ("t5", "data2"),
    ],
)
def test_bf16_stays_close(train, model, name):
    world_size, changes = GRIDS[name]
    outcomes = train(world_size, precision__name="bf16", engine__zero_stage=1, **changes, **MODELS[model])
    agree_roughly(outcomes, train(1, **MODELS[model]), 3e-2, 3e-2)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("bert", "pipeline2"),
        pytest.param("bert", "tensor2_pipeline2", marks=pytest.mark.slow),
        pytest.param("bert", "data2_pipeline2_virtual2", marks=pytest.mark.slow),
        pytest.param("electra", "tensor2", marks=pytest.mark.slow),
        pytest.param("t5", "tensor2", marks=pytest.mark.slow),
    ],
)
def test_layers_slow_down_alike_on_every_grid(train, model, name):
    """The embedding too, which the last pipeline stage holds a copy of."""
    world_size, changes = GRIDS[name]
    settings = {**MODELS[model], "optim__layer_decay": 0.5, "optim__lr": 1e-2}
    reference = train(1, **settings)
    agree(train(world_size, engine__zero_stage=1, **settings, **changes), reference)
    plain = whole(train(1, **MODELS[model], optim__lr=1e-2), "final")["embedding.word.weight"]
    assert (whole(reference, "final")["embedding.word.weight"] - plain).abs().max() > 1e-3
