"""Every combination that the table of what works promises makes the updates that one rank makes."""

import functools
from typing import Any

import pytest
import torch

from tests.ranks.engine_runs import losses_case
from tests.ranks.selection import covering
from tests.ranks.training import configure
from tools.support_tables import Combination, combinations

#: Relative tolerance of losses over three updates.
TOLERANCE = {"fp32": 1e-5, "bf16": 3e-3, "fp16": 3e-3, "fp8": 3e-3}
PEAKS = {"adamw": 1e-3, "adam": 1e-3, "lamb": 5e-3, "sgd": 0.1, "adafactor": 1e-2, "muon": 5e-3}
#: Of every kind one; all of them are `slow`.
QUICK = {
    f"{engine}-{axis}-{precision}-{optimizer}"
    for engine, axis, precision, optimizer in [
        ("megatron-1", "data", "fp32", "sgd"),
        ("megatron-1", "tensor", "bf16", "muon"),
        ("megatron-0", "pipeline", "fp32", "adam"),
        ("megatron-1", "pipeline", "bf16", "adafactor"),
        ("deepspeed-2", "tensor", "fp16", "adafactor"),
        ("megatron-1", "tensor", "fp16", "lamb"),
        ("deepspeed-1", "pipeline", "fp16", "adamw"),
        ("deepspeed-2", "data", "fp32", "sgd"),
        ("deepspeed-3", "tensor + sequence", "fp32", "adam"),
        ("deepspeed-3", "data", "fp16", "lamb"),
        ("deepspeed-0", "tensor", "fp32", "adamw"),
        ("megatron-1", "tensor + sequence", "fp8", "lamb"),
        ("deepspeed-3", "data", "fp8", "adamw"),
        ("megatron-1", "context", "bf16", "muon"),
        ("deepspeed-2", "context", "fp16", "lamb"),
    ]
}


@pytest.fixture(scope="module")
def train(ranks, tmp_path_factory):
    runs = str(tmp_path_factory.mktemp("runs"))

    @functools.cache
    def run(world_size: int, items: tuple) -> list[list[float]]:
        return ranks.run(world_size, losses_case, configure(world_size, run__root=runs, **dict(items)))

    return run


def settings(cell: Combination, **changes: Any) -> tuple:
    values = {f"{group}__{name}": v for group, found in cell.overrides.items() for name, v in found.items()}
    values |= {"train__micro_batch": 2, "optim__lr": PEAKS[cell.optimizer], "cluster__device": "auto"}
    if cell.optimizer == "sgd":
        values |= {"optim__momentum": 0.9}
    if cell.precision == "fp16":
        values |= {"precision__initial_loss_scale": 256.0}
    return tuple(sorted((values | changes).items()))


@pytest.mark.ranks
@pytest.mark.parametrize(
    "cell", covering(combinations(), (c for c in combinations() if c.name in QUICK), ids=lambda cell: cell.name)
)
def test_cell(train, cell):
    # Asked here, as the rules take half a minute for all of them, which every worker would wait for.
    if cell.refusal is not None:
        pytest.skip(cell.refusal)
    alone = {
        "parallel__tensor": 1,
        "parallel__pipeline": 1,
        "parallel__sequence_parallel": False,
        "parallel__context": 1,
    }
    alone |= {"parallel__virtual_pipeline": 1, "engine__name": "megatron", "engine__zero_stage": 0}
    reference = train(1, settings(cell, **alone))[0]
    for losses in train(2, settings(cell)):
        torch.testing.assert_close(
            torch.tensor(losses), torch.tensor(reference), rtol=TOLERANCE[cell.precision], atol=0
        )


def test_the_quick_ones_are_cells():
    assert {cell.name for cell in combinations() if cell.name in QUICK and cell.refusal is None} == QUICK
