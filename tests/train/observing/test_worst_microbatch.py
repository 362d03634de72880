"""Each record names the microbatch of the largest loss by its samples: noise is found on every grid and engine."""

import contextlib

import pytest

from dist_plm.monitor.metrics_file import read_metrics
from tests.ranks.pool import World
from tests.ranks.ports import free_port
from tests.train import finetuning
from tests.train.healing.faults import Fault, faulty_case, planted
from tests.train.healing.test_equivalence import state_of
from tests.train.running import make_store, run_case, settings

pytestmark = pytest.mark.ranks

#: Samples of the run: the four numbers from 20 on are left out, so that step n learns from 8 (n - 1) + 4 on.
SKIPPED = [[20, 24]]
#: Two samples of noise in each of the last steps, of each another of its four microbatches.
POISONED = [8 * 14 + 4, 8 * 15 + 6, 8 * 16 + 8, 8 * 17 + 10]
CELLS = {
    "one": (1, {}),
    "data": (2, {}),
    "pipeline": (2, {"parallel__pipeline": 2}),
    "tensor": (2, {"parallel__tensor": 2}),
    "data-pipeline": (4, {"parallel__pipeline": 2}),
    "data-tensor": (4, {"parallel__tensor": 2}),
}
QUICK = ("one", "data", "pipeline")


def poisoned_case(world: World, config, port: int) -> int:
    with contextlib.ExitStack() as stack:
        for first in POISONED:
            stack.enter_context(planted(Fault("document", at=first, size=2), world.rank))
        return run_case(world, config, port)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


@pytest.mark.parametrize("engine", ["megatron", "deepspeed"])
@pytest.mark.parametrize("cell", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in CELLS])
def test_the_worst_microbatch_is_the_poisoned_one(ranks, store, tmp_path, engine, cell):
    size, changes = CELLS[cell]
    changes = {"engine__name": engine, "train__steps": 18, "train__eval_samples": 0, "checkpoint__every": 0, **changes}
    config = settings(store, tmp_path, **changes, data__skip_samples=SKIPPED)
    assert ranks.run(size, poisoned_case, config, free_port()) == [0] * size
    *_, before, a, b, c, d = read_metrics(tmp_path / "metrics.jsonl")
    found = [(one["worst/first_sample"], one["worst/last_sample"]) for one in (a, b, c, d)]
    assert found == [(first, first + 1) for first in POISONED]
    assert all(one["worst/loss"] > one["loss"] + 0.5 for one in (a, b, c, d))
    assert before["worst/loss"] < before["loss"] + 0.5


def test_a_short_last_microbatch_is_named_by_the_samples_that_it_has(ranks, tmp_path):
    """Of 19 rows the second step of 16 has three. It is healed: 19 other samples take the place of all."""
    rows = finetuning.make_rows(tmp_path)
    lines = (rows / "train.jsonl").read_text().splitlines(keepends=True)
    (rows / "train.jsonl").write_text("".join(lines[:19]))
    changes = {"train__global_batch": 16, "train__micro_batch": 8, "train__epochs": 1}
    changes |= {"train__heal": {"mode": "on"}, "checkpoint__every": 1}
    config = finetuning.settings(rows, tmp_path / "run", **changes)
    assert ranks.run(1, faulty_case, config, free_port(), Fault("gradient", at=16, once=True)) == [0]
    first, last = finetuning.records(tmp_path / "run")
    assert first["worst/last_sample"] - first["worst/first_sample"] == 7
    assert (first["heal/worst_first_sample"], first["heal/worst_last_sample"]) == (16, 18)
    assert (last["worst/first_sample"], last["worst/last_sample"]) == (35, 37)
    (act,) = state_of(tmp_path / "run", 2).history
    assert "samples 16 to 18" in act["changes"][0]
    assert "samples='[16, 19]'" in act["changes"][0]
