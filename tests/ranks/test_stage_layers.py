"""Stages of a pipeline that hold not as many layers each train as one rank does: families, chunks that take turns, engines,
and ends that hold none."""

import pytest

from tests.ranks.engine_runs import agree, trainer
from tests.ranks.test_encoders import BERT
from tests.ranks.test_grids import grid

pytestmark = pytest.mark.ranks

LAYERS = {"model__layers": 6}
CASES = [
    ("gpt", grid(4, pipeline=4, stage_layers=(2, 2, 1, 1)), "megatron"),
    ("gpt", grid(4, pipeline=2, stage_layers=(4, 2)), "deepspeed"),
    ("gpt", grid(2, pipeline=2, virtual_pipeline=2, stage_layers=(2, 1, 2, 1)), "deepspeed"),
    ("bert", grid(2, pipeline=2, virtual_pipeline=2, stage_layers=(1, 1, 1, 3)), "megatron"),
    ("bert", grid(4, tensor=2, pipeline=2, sequence_parallel=True, stage_layers=(1, 5)), "deepspeed"),
    ("gpt", grid(4, pipeline=4, stage_layers=(3, 2, 1, 0)), "megatron"),
    ("gpt", grid(2, pipeline=2, stage_layers=(6, 0)), "deepspeed"),
    ("bert", grid(2, pipeline=2, virtual_pipeline=2, stage_layers=(0, 2, 4, 0)), "megatron"),
]
FAMILIES = {"gpt": {}, "bert": {**BERT, "objective__name": "mlm"}}


@pytest.fixture(scope="module")
def train(ranks, tmp_path_factory):
    return trainer(ranks, tmp_path_factory.mktemp("runs"), short=True)


@pytest.mark.parametrize(("family", "cut", "engine"), CASES)
def test_train_as_one_rank(train, family, cut, engine):
    world_size, changes = cut
    model = {**LAYERS, **FAMILIES[family]}
    outcomes = train(world_size, engine__name=engine, engine__zero_stage=1, **model, **changes)
    agree(outcomes, train(1, **model))


def test_a_stage_without_layers_has_no_vectors_to_update(train):
    """The embedding's two copies learn alike: by an optimizer that adds up over their ranks in every update."""
    settings = {"optim__name": "adafactor", "model__layers": 2}
    cut = {"parallel__pipeline": 2, "parallel__stage_layers": (0, 2)}
    outcomes = train(2, engine__name="deepspeed", engine__zero_stage=1, **settings, **cut)
    agree(outcomes, train(1, **settings))
