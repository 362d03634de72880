"""Adapters (LoRA) begin as the base model to the bit, learn alone, and on every grid and engine as on one rank."""

import functools

import pytest
import torch

from dist_plm.spec.families.lora import is_adapter
from tests.ranks.engine_runs import agree
from tests.ranks.engine_runs import train_case as train
from tests.ranks.made_tensors import MadeTensors
from tests.ranks.pool import World
from tests.ranks.selection import covering
from tests.ranks.test_grids import GRIDS
from tests.ranks.training import build, configure, rank_batches, whole

pytestmark = pytest.mark.ranks

ALL = ("query", "key", "value", "output", "up", "down")
MODELS = {
    "none": None,
    "all": {"rank": 4, "targets": ALL, "dropout": 0.1},
    "some": {"rank": 3, "alpha": 6.0, "targets": ("query", "value", "down"), "dropout": 0.2},
}
CELLS = [
    (model, grid, engine, zero_stage)
    for model in ("all", "some")
    for grid, engine, zero_stage in (
        ("data2_tensor2_sequence", "megatron", 1),
        ("tensor2_pipeline2", "megatron", 0),
        ("tensor2_pipeline2", "deepspeed", 1),
        ("data2", "deepspeed", 3),
        ("data2", "deepspeed", 2),
        ("data2_tensor2_sequence", "deepspeed", 1),
        ("tensor2_pipeline2_sequence_virtual2", "megatron", 0),
    )
]
QUICK = [
    ("some", "tensor2_pipeline2_sequence_virtual2", "megatron", 0),
    ("all", "tensor2_pipeline2", "deepspeed", 1),
]


@pytest.fixture(scope="module")
def learn(ranks, tmp_path_factory):
    runs = str(tmp_path_factory.mktemp("runs"))

    @functools.cache
    def run(world_size: int, lora: str, items: tuple):
        changes = {"run__root": runs, "model__lora": MODELS[lora], **dict(items)}
        return ranks.run(world_size, train, configure(world_size, **changes))

    return lambda world_size, lora, **changes: run(world_size, lora, tuple(sorted(changes.items())))


@pytest.mark.parametrize(("model", "grid", "engine", "zero_stage"), covering(CELLS, QUICK))
def test_on_every_grid_as_on_one_rank(learn, model, grid, engine, zero_stage):
    world_size, changes = GRIDS[grid]
    outcomes = learn(world_size, model, engine__name=engine, engine__zero_stage=zero_stage, **changes)
    agree(outcomes, learn(1, model))
    initial, final = whole(outcomes, "initial"), whole(outcomes, "final")
    moved = {name for name, tensor in initial.items() if not torch.equal(tensor, final[name])}
    assert moved == {name for name in initial if is_adapter(name)}


def test_the_first_loss_is_the_base_models_to_the_bit(learn):
    base, adapted = learn(1, "none"), learn(1, "all")
    assert adapted[0].losses[0] == base[0].losses[0]
    assert adapted[0].losses[-1] != base[0].losses[-1]


def makes_a_matrix_over_the_vocabulary(world: World, config) -> bool:
    engine, groups = build(world, config)
    batches = rank_batches(config, groups, 0)
    (width,) = {len(one) for name, one in engine._chunks[0].named_parameters() if name.endswith("word.weight")}
    with MadeTensors() as made:
        engine.train_step(batches, 1e-3)
    return (width, config.model.hidden) in made.shapes


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("tied", [True, False])
def test_a_frozen_output_matrix_has_no_gradient(ranks, tensor, tied):
    for lora in ("none", "all"):
        config = configure(tensor, model__lora=MODELS[lora], model__tied_embeddings=tied, parallel__tensor=tensor)
        told = ranks.run(tensor, makes_a_matrix_over_the_vocabulary, config)
        assert told == [lora == "none"] * tensor, lora
