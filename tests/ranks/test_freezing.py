"""What train.freeze names stays bit for bit, and the rest learns as on one rank: on every grid and engine, where a stage has
nothing to train as well."""

import functools

import pytest
import torch

from dist_plm.spec.freezing import frozen_tensors
from tests.ranks.engine_runs import agree
from tests.ranks.engine_runs import train_case as train
from tests.ranks.labelled import configured, learn_case
from tests.ranks.selection import covering
from tests.ranks.test_encoders import BERT
from tests.ranks.test_grids import GRIDS
from tests.ranks.test_lamb import LAMB
from tests.ranks.training import configure, few_microbatches, whole

pytestmark = pytest.mark.ranks

TASK = {**BERT, "objective__name": "mlm"}
#: Of 4 layers: a first stage with nothing to train, layers all over, everything but the head, the head and what is tied.
FREEZE = {
    "first_stage": ("embeddings", "layers.0-1"),
    "middle": ("layers.1-2",),
    "all_but_head": ("all_but_head",),
    "last_stage": ("head", "layers.2-3"),
}
SHARDINGS = [
    ("data2", "megatron", 1),
    ("data2", "deepspeed", 0),
    ("data2", "deepspeed", 1),
    ("data2", "deepspeed", 2),
    ("data2", "deepspeed", 3),
    ("tensor2_pipeline2", "megatron", 0),
    ("tensor2_pipeline2", "deepspeed", 0),
    ("tensor2_pipeline2", "deepspeed", 1),
    ("data2_pipeline2", "megatron", 1),
    ("data2_pipeline2", "deepspeed", 1),
    ("data2_pipeline2_virtual2", "megatron", 1),
    ("tensor2_pipeline2_sequence_virtual2", "megatron", 0),
    ("data2_tensor2_sequence", "deepspeed", 3),
]
CELLS = [(kind, *sharding) for kind in FREEZE for sharding in SHARDINGS]
QUICK = [
    ("first_stage", "data2_pipeline2", "megatron", 1),
    ("first_stage", "tensor2_pipeline2", "deepspeed", 1),
    ("all_but_head", "data2", "deepspeed", 3),
    ("all_but_head", "tensor2_pipeline2_sequence_virtual2", "megatron", 0),
    ("last_stage", "data2_pipeline2_virtual2", "megatron", 1),
    ("middle", "data2", "deepspeed", 2),
]


@pytest.fixture(scope="module")
def learn(ranks, tmp_path_factory):
    runs = str(tmp_path_factory.mktemp("runs"))

    @functools.cache
    def run(world_size: int, items: tuple):
        changes = few_microbatches(world_size, dict(items))
        config = configured(world_size, "classify", run__root=runs, **TASK, **changes)
        return ranks.run(world_size, learn_case, config, "classify")

    return lambda world_size, **changes: run(world_size, tuple(sorted(changes.items())))


def assert_frozen(outcomes, config):
    frozen = frozen_tensors(config.model, config.train.freeze)
    initial, final = whole(outcomes, "initial"), whole(outcomes, "final")
    moved = {name for name, tensor in initial.items() if not torch.equal(tensor, final[name])}
    assert moved
    assert moved == initial.keys() - frozen


@pytest.mark.parametrize(("kind", "grid", "engine", "zero_stage"), covering(CELLS, QUICK))
def test_of_a_task(learn, kind, grid, engine, zero_stage):
    world_size, changes = GRIDS[grid]
    freeze = {"train__freeze": FREEZE[kind], "optim__weight_decay": 0.1}
    outcomes = learn(world_size, engine__name=engine, engine__zero_stage=zero_stage, **freeze, **changes)
    agree(outcomes, learn(1, **freeze))
    assert_frozen(outcomes, configured(1, "classify", **TASK, **freeze))


GRADUAL = [
    ("adamw", "data2_pipeline2", "megatron", 1),
    ("lamb", "data2", "deepspeed", 3),
    ("adamw", "tensor2_pipeline2", "deepspeed", 1),
    ("muon", "data2_tensor2_sequence", "megatron", 1),
    ("adafactor", "data2", "megatron", 1),
]


@pytest.mark.parametrize(("optim", "grid", "engine", "zero_stage"), covering(GRADUAL, GRADUAL[:2]))
def test_layers_begin_to_learn_from_the_top_down(learn, optim, grid, engine, zero_stage):
    """What has not begun stays to the bit, though its weights decay."""
    world_size, changes = GRIDS[grid]
    settings = {"train__unfreeze_every": 2, "optim__weight_decay": 0.1}
    settings |= LAMB if optim == "lamb" else {"optim__name": optim}
    outcomes = learn(world_size, engine__name=engine, engine__zero_stage=zero_stage, **settings, **changes)
    reference = learn(1, **settings)
    agree(outcomes, reference)
    initial, final = whole(outcomes, "initial"), whole(outcomes, "final")
    moved = {name for name, tensor in initial.items() if not torch.equal(tensor, final[name])}
    above = ("layers.2.", "layers.3.", "head.", "pair.")
    assert moved == {name for name in initial if name.startswith(above)}, "of 5 steps the last trains layers 2 and 3"
    assert len(reference[0].losses) == 5


PRETRAINING = [
    ("adamw", "data2_pipeline2", "megatron", 1),
    ("lamb", "data2_pipeline2", "deepspeed", 1),
    ("lamb", "data2", "deepspeed", 3),
    ("adafactor", "data2", "megatron", 1),
    ("muon", "data2", "megatron", 1),
]


@pytest.mark.parametrize(("optim", "grid", "engine", "zero_stage"), covering(PRETRAINING, PRETRAINING[:2]))
def test_of_pretraining(ranks, tmp_path, optim, grid, engine, zero_stage):
    """The embedding among it, of which the last stage holds a copy."""
    world_size, changes = GRIDS[grid]
    settings = {"train__freeze": ("embeddings", "layers.0-1"), "run__root": str(tmp_path)}
    settings |= LAMB if optim == "lamb" else {"optim__name": optim}
    of_grid = {"engine__name": engine, "engine__zero_stage": zero_stage, **settings, **changes}
    config = configure(world_size, **few_microbatches(world_size, of_grid))
    outcomes = ranks.run(world_size, train, config)
    agree(outcomes, ranks.run(1, train, configure(1, **few_microbatches(1, settings))))
    assert_frozen(outcomes, config)


#: Parameters of which a stage has none, though the embedding that the first and the last share is trained on both.
UNEVEN = [
    ("adafactor", {"train__freeze": ("layers.0-1",)}),
    ("lamb", {**TASK, "train__unfreeze_every": 2}),
    ("lamb", {**TASK, "optim__head_lr": 1e-3}),
]


@pytest.mark.parametrize(("optim", "changes"), covering(UNEVEN, UNEVEN[:2]))
def test_stages_that_train_other_kinds_of_parameters(ranks, tmp_path, optim, changes):
    """All of them update as often: an update of whole tensors waits for the other ranks."""
    world_size, cut = GRIDS["data2_pipeline2"]
    settings = {"train__steps": 3, "run__root": str(tmp_path), **changes}
    settings = LAMB | settings if optim == "lamb" else {"optim__name": optim, **settings}
    outcomes = ranks.run(
        world_size, train, configure(world_size, engine__name="deepspeed", engine__zero_stage=1, **settings, **cut)
    )
    agree(outcomes, ranks.run(1, train, configure(1, **few_microbatches(1, settings))))


@pytest.mark.parametrize("engine", ["megatron", "deepspeed"])
def test_in_half_precision(ranks, tmp_path, engine):
    """No master copies: what is frozen is what the model computes with."""
    world_size, changes = GRIDS["data2_pipeline2"]
    settings = {"train__freeze": ("all_but_head",), "precision__name": "bf16", "run__root": str(tmp_path)}
    config = configured(
        world_size, "classify", engine__name=engine, engine__zero_stage=1, **settings, **TASK, **changes
    )
    outcomes = ranks.run(world_size, learn_case, config, "classify")
    assert_frozen(outcomes, config)
    final = whole(outcomes, "final")
    assert all(
        torch.equal(final[name], final[name].bfloat16().float())
        for name in frozen_tensors(config.model, config.train.freeze)
    )


def test_a_rate_of_its_own_for_the_head(learn):
    world_size, changes = GRIDS["data2_pipeline2"]
    reference = learn(1, optim__head_lr=1e-2)
    agree(learn(world_size, optim__head_lr=1e-2, engine__zero_stage=1, **changes), reference)
    plain, fast = (whole(one, "final") for one in (learn(1), reference))
    initial = whole(reference, "initial")
    for name, least, most in (("head.output.weight", 5, 20), ("layers.3.mlp.up.weight", 0.5, 2)):
        ratio = float((fast[name] - initial[name]).norm() / (plain[name] - initial[name]).norm())
        assert least < ratio < most, name
