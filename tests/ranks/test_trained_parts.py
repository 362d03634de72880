"""What is learned of whole models, of some layers, and of adapters, with the heads of tasks and by models that write: on every
grid and engine as on one rank, and nothing else moves."""

import functools

import pytest
import torch

from dist_plm.spec.families.lora import is_adapter
from dist_plm.spec.families.tensors import head_of, shapes_of
from dist_plm.spec.freezing import frozen_tensors
from tests.ranks.engine_runs import agree
from tests.ranks.labelled import SHARDINGS, WRITING, configured, learn_case
from tests.ranks.selection import covering
from tests.ranks.test_encoders import DROPOUT, T5, TRANSFORMER
from tests.ranks.test_grids import GRIDS
from tests.ranks.test_task_heads import NETWORKS as ENCODERS
from tests.ranks.training import whole

pytestmark = pytest.mark.ranks

#: The derivative of the Transformer's ReLU jumps, and of some seeds' values one is 0 there but for rounding; GELU's does not.
NETWORKS = {**ENCODERS, "t5": T5, "transformer": {**TRANSFORMER, "model__activation": "gelu"}}
TASKS_OF = {
    **dict.fromkeys(("bert", "roberta", "electra"), ("classify", "tag", "span", "choice")),
    **dict.fromkeys(("gpt", "llama"), ("continued", "seen_before", "packed")),
    **dict.fromkeys(("t5", "transformer"), ("answered",)),
}
ADAPTED = {"rank": 3, "alpha": 6.0, "targets": ("query", "value", "output", "up"), "dropout": 0.1}
#: The first of two stages with nothing to train, where a pipeline cuts the model.
FROZEN = {
    "electra": ("embeddings", "discriminator.layers.0-1"),
    "t5": ("embeddings", "encoder.layers.0-1"),
    "transformer": ("embeddings", "decoder.layers.0-1"),
}
#: Settings by what is learned; whole models with heads are those of test_task_heads.
PARTS = {
    "whole": lambda network: {},
    "adapters": lambda network: {"model__lora": ADAPTED},
    "upper_layers": lambda network: {"train__freeze": FROZEN.get(network, ("embeddings", "layers.0-1"))},
}
CELLS = [
    (network, task, part, grid, engine, zero_stage)
    for network, tasks in TASKS_OF.items()
    for task in tasks
    for part in PARTS
    for grid, engine, zero_stage in (("data2", "deepspeed", 1), *SHARDINGS)
    if (part != "whole" or task in WRITING) and (task != "answered" or "pipeline" not in grid)
]
#: Every part, and most networks, tasks and shardings once.
QUICK = [
    ("bert", "classify", "adapters", "tensor2_pipeline2", "deepspeed", 1),
    ("roberta", "tag", "adapters", "data2", "deepspeed", 3),
    ("electra", "span", "upper_layers", "data2_pipeline2_virtual2", "megatron", 1),
    ("gpt", "packed", "whole", "data2_pipeline2_virtual2", "megatron", 1),
    ("gpt", "seen_before", "upper_layers", "data2_tensor2_sequence", "deepspeed", 3),
    ("llama", "continued", "whole", "data2", "deepspeed", 2),
    ("transformer", "answered", "whole", "data2", "deepspeed", 3),
]


@pytest.fixture(scope="module")
def learn(ranks, tmp_path_factory):
    runs = str(tmp_path_factory.mktemp("runs"))

    @functools.cache
    def run(world_size: int, network: str, task: str, part: str, items: tuple):
        settings = {**NETWORKS[network], **DROPOUT, "train__micro_batch": 2, **PARTS[part](network), **dict(items)}
        return ranks.run(world_size, learn_case, configured(world_size, task, run__root=runs, **settings), task)

    return lambda world_size, *named, **changes: run(world_size, *named, tuple(sorted(changes.items())))


def learned_names(network: str, task: str, part: str) -> set[str]:
    """The tensors that move, by canonical name."""
    config = configured(1, task, **NETWORKS[network], **PARTS[part](network))
    model = config.model
    names = set(shapes_of(model))
    if part == "adapters":
        return {name for name in names if is_adapter(name)} | (set() if model.predicts_tokens else head_of(model))
    return names - frozen_tensors(model, config.train.freeze)


@pytest.mark.parametrize(("network", "task", "part", "grid", "engine", "zero_stage"), covering(CELLS, QUICK))
def test_on_every_grid_as_on_one_rank(learn, network, task, part, grid, engine, zero_stage):
    world_size, changes = GRIDS[grid]
    reference = learn(1, network, task, part)
    outcomes = learn(world_size, network, task, part, engine__name=engine, engine__zero_stage=zero_stage, **changes)
    agree(outcomes, reference)
    initial, final = whole(outcomes, "initial"), whole(outcomes, "final")
    moved = {name for name, tensor in initial.items() if not torch.equal(tensor, final[name])}
    assert moved == learned_names(network, task, part)
    for outcome in outcomes:
        for (_, ours), (_, theirs) in zip(outcome.predictions, reference[0].predictions, strict=True):
            assert ours.keys() == theirs.keys()
            for name, expected in theirs.items():
                torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-5)
