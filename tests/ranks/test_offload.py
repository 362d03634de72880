"""Optimizer and weights that DeepSpeed keeps on the host: the option is handed through, and the configured optimizer makes
the updates that it makes without."""

import itertools
import json
from unittest.mock import patch

import pytest

from dist_plm.core.errors import ConfigError
from tests.ranks.engine_runs import agree, trainer
from tests.ranks.selection import covering
from tests.ranks.test_adafactor import ADAFACTOR
from tests.ranks.test_grids import GRIDS
from tests.ranks.test_lamb import LAMB
from tests.ranks.training import build, configure

pytestmark = pytest.mark.ranks


class Frozen(dict):
    """Settings that can key a cache."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return hash(json.dumps(self, sort_keys=True))

    def __lt__(self, other) -> bool:
        return False


OPTIMIZERS = {"adamw": ({}, 1e-5), "lamb": (LAMB, 2e-6), "adafactor": (ADAFACTOR, 5e-6)}
#: What is kept away, ZeRO stage, grid.
KEPT = [
    (("optimizer",), 1, "data2"),
    (("optimizer",), 1, "data2_pipeline2"),
    (("optimizer",), 2, "data2"),
    (("optimizer",), 2, "data2_tensor2"),
    (("optimizer",), 3, "data2"),
    (("optimizer", "param"), 3, "data2"),
    (("optimizer", "param"), 3, "data2_tensor2"),
]
CELLS = [(optim, *cell) for optim in OPTIMIZERS for cell in KEPT]
QUICK = [
    ("adamw", ("optimizer",), 1, "data2_pipeline2"),
    ("lamb", ("optimizer",), 2, "data2"),
    ("adafactor", ("optimizer", "param"), 3, "data2"),
]


@pytest.fixture(scope="module")
def train(ranks, tmp_path_factory):
    return trainer(ranks, tmp_path_factory.mktemp("runs"))


def offload(kept, **settings) -> dict:
    return Frozen(zero_optimization={f"offload_{of}": settings for of in kept})


@pytest.mark.parametrize(
    ("optim", "kept", "zero_stage", "name"),
    covering(CELLS, QUICK, ids=lambda cell: f"{cell[0]}-{'+'.join(cell[1])}-{cell[2]}-{cell[3]}"),
)
def test_on_the_host(train, optim, kept, zero_stage, name):
    world_size, changes = GRIDS[name]
    settings, tolerance = OPTIMIZERS[optim]
    engine = {"engine__name": "deepspeed", "engine__zero_stage": zero_stage}
    outcomes = train(world_size, **engine, engine__deepspeed=offload(kept, device="cpu"), **settings, **changes)
    agree(outcomes, train(1, **settings), weights=tolerance)


#: Settings under which one stage of a pipeline trains more kinds of parameters than another.
UNEVEN = {
    "by_depth": {"optim__layer_decay": 0.8},
    "unfreezing": {"train__unfreeze_every": 2},
    "head": {"optim__head_lr": 1e-2, "model__tied_embeddings": False},
    "frozen": {"train__freeze": ("layers.0-1",)},
    "adapters": {"optim__layer_decay": 0.8, "model__lora": Frozen(rank=3, targets=("query", "up"))},
}
UNEVEN_CELLS = [
    (kind, name) for kind in UNEVEN for name in ("pipeline2_uneven", "data2_pipeline2", "tensor2_pipeline2")
]
QUICK_UNEVEN = [("by_depth", "pipeline2_uneven"), ("frozen", "data2_pipeline2")]


@pytest.mark.parametrize(("kind", "name"), covering(UNEVEN_CELLS, QUICK_UNEVEN))
def test_stages_that_train_other_kinds_of_parameters(train, kind, name):
    """DeepSpeed adds up the squares of gradients on the host over all stages, kind by kind."""
    world_size, changes = GRIDS[name]
    engine = {"engine__name": "deepspeed", "engine__zero_stage": 1}
    kept = offload(("optimizer",), device="cpu")
    agree(train(world_size, **engine, engine__deepspeed=kept, **UNEVEN[kind], **changes), train(1, **UNEVEN[kind]))


def refused(world, config, compatible: bool | ImportError) -> str:
    """On a machine where DeepSpeed's operator for files cannot be built: for want of a library, or of Python's, or in the
    compiler."""
    from deepspeed.ops.op_builder import AsyncIOBuilder

    broken = RuntimeError("Error building extension 'async_io': ninja failed\nand much more")
    with (
        patch.object(AsyncIOBuilder, "is_compatible", side_effect=itertools.repeat(compatible)),
        patch.object(AsyncIOBuilder, "load", side_effect=broken),
        pytest.raises(ConfigError) as refusal,
    ):
        build(world, config)
    return str(refusal.value)


WITHOUT_DISTUTILS = ModuleNotFoundError("No module named 'distutils'")


@pytest.mark.parametrize(
    ("compatible", "reason"),
    [(False, "libaio"), (True, "ninja failed;"), (WITHOUT_DISTUTILS, "No module named 'distutils'")],
    ids=["libaio", "compiler", "distutils"],
)
def test_nvme_is_refused_where_it_cannot_be(ranks, tmp_path, compatible, reason):
    extra = offload(("optimizer", "param"), device="nvme", nvme_path=str(tmp_path))
    config = configure(1, engine__name="deepspeed", engine__zero_stage=3, engine__deepspeed=extra)
    (message,) = ranks.run(1, refused, config, compatible)
    for of in ("optimizer", "param"):
        assert f"engine.deepspeed.zero_optimization.offload_{of}.device = 'nvme' needs DeepSpeed's async_io" in message
    assert reason in message
    assert message.count("set it to cpu") == 2
