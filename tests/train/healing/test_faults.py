"""Planted faults are noticed within two steps, healed, bounded and written down."""

import pytest

from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.monitor.metrics_file import read_metrics
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.train.healing.faults import Fault, faulty_case
from tests.train.healing.test_equivalence import state_of
from tests.train.running import make_store, run_case, settings

pytestmark = pytest.mark.ranks

LONG = {"train__steps": 60, "train__eval_every": 20, "train__eval_samples": 40, "checkpoint__every": 10}
HEAL = {"mode": "on", "window": 16}
MEGATRON = {"engine__name": "megatron", "engine__zero_stage": 1}
DEEPSPEED = {"engine__name": "deepspeed", "engine__zero_stage": 2}
DOCUMENT, SPIKE = Fault("document", at=8 * 39), Fault("rate", at=40, once=True)
BROKEN = Fault("gradient", at=8 * 39 + 5, rank=1, once=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


@pytest.fixture(scope="module")
def clean(ranks, store, tmp_path_factory):
    """The held-out loss of a run without a fault, which no alarm was raised in."""
    run_dir = tmp_path_factory.mktemp("clean")
    config = settings(store, run_dir, **LONG, train__heal=HEAL)
    assert ranks.run(1, run_case, config, free_port()) == [0]
    records = read_metrics(run_dir / "metrics.jsonl")
    assert not [name for record in records for name in record if name.startswith("heal/")]
    return records[-1]["eval/loss"]


def cell(fault, noticed, *, engine, **grid):
    marks = [] if not grid and (fault, engine) in ((DOCUMENT, MEGATRON), (SPIKE, DEEPSPEED)) else [pytest.mark.slow]
    name = "-".join([fault.kind, engine["engine__name"], *(f"{axis[10:]}{size}" for axis, size in grid.items())])
    stage = {"engine__zero_stage": 1} if "parallel__pipeline" in grid else {}  # ZeRO-2 has no pipeline
    return pytest.param(fault, noticed, {**engine, **grid, **stage}, id=name, marks=marks)


@pytest.mark.parametrize(
    ("fault", "noticed", "changes"),
    [
        cell(fault, noticed, engine=engine, **grid)
        for fault, noticed in ((DOCUMENT, 40), (SPIKE, 41), (BROKEN, 40))
        for engine in (MEGATRON, DEEPSPEED)
        for grid in ({}, {"parallel__pipeline": 2}, {"parallel__tensor": 2})
    ],
)
def test_a_fault_is_noticed_and_healed(ranks, store, tmp_path, clean, fault, noticed, changes):
    config = settings(store, tmp_path, **LONG, train__heal=HEAL, **changes)
    assert ranks.run(2, faulty_case, config, free_port(), fault) == [0, 0]
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 61)), "each step once"
    (healed,) = [record for record in records if "heal/rollbacks" in record]
    assert (healed["heal/noticed"], healed["heal/rollbacks"]) == (noticed, 1)
    assert records[-1]["eval/loss"] == pytest.approx(clean, rel=0.01)
    (act,) = state_of(tmp_path, 60).history
    assert act["skipped"] == [[8 * (noticed - 2), 8 * noticed]]
    assert (act["heal"]["worst_loss"], act["heal"]["worst_first_sample"]) == (
        healed["heal/worst_loss"],
        healed["heal/worst_first_sample"],
    )
    if fault.kind == "document":
        first = healed["heal/worst_first_sample"]
        assert first in (312, 314, 316, 318)
        assert healed["heal/worst_last_sample"] == first + 1
        shown = f"(python launch/samples.py run={tmp_path} samples='[{first}, {first + 2}]')"
        assert act["changes"][0].endswith(f"was that of samples {first} to {first + 1} {shown}")
        assert act["changes"][0] in (tmp_path / "log" / "rank_00000.log").read_text()


@pytest.mark.parametrize(("rate", "memory_every"), [(1.0, 0), (0.5, 0), pytest.param(1.0, 8, marks=pytest.mark.slow)])
def test_what_comes_again_ends_the_run(ranks, store, tmp_path, rate, memory_every):
    """A rate that is too high at one step whichever samples it takes."""
    heal = {**HEAL, "most": 2, "rate": rate, "memory_every": memory_every}
    config = settings(store, tmp_path, **LONG, train__heal=heal, track__to=["csv"])
    with pytest.raises(
        RanksError, match=r"Diverged: the run diverged: step 41: the loss is .*, after 2 rollbacks"
    ) as told:
        ranks.run(1, faulty_case, config, free_port(), Fault("rate", at=40))
    assert str(told.value).count("  - step 41: ") == 2
    assert "rollback 2 of the run" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "checkpoints" / "latest").read_text().strip() == "step_00000030"
    assert LocalStorage(tmp_path / "checkpoints").steps() == [20, 30]
    acts = state_of(tmp_path, 30).history
    assert [act["skipped"] for act in acts] == [[[312, 328]], [[328, 344]]]
    with pytest.raises(RanksError, match="after 2 rollbacks"):
        ranks.run(1, faulty_case, config, free_port(), Fault("rate", at=40))
    assert ranks.run(1, run_case, settings(store, tmp_path, **LONG, train__stop_at=40), free_port()) == [0]
    lowered = [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl") if record["lr"] < 0.002]
    assert lowered == ([] if rate == 1.0 else [40])


def test_a_run_may_begin_with_a_bad_step(ranks, store, tmp_path):
    config = settings(store, tmp_path, train__heal=HEAL)
    assert ranks.run(1, faulty_case, config, free_port(), Fault("gradient", at=3)) == [0]
    (act,) = state_of(tmp_path, 12).history
    assert (act["step"], act["skipped"]) == (0, [[0, 8]])


OVERFLOWING = {
    "one": (1, {}),
    "data": (2, {}),
    "tensor": (2, {"parallel__tensor": 2}),
    "pipeline": (2, {"parallel__pipeline": 2}),
    **{f"zero{stage}": (2, {"engine__name": "deepspeed", "engine__zero_stage": stage}) for stage in range(4)},
}


@pytest.mark.parametrize(
    ("size", "changes"),
    [pytest.param(*one, id=name, marks=[] if name == "one" else pytest.mark.slow) for name, one in OVERFLOWING.items()],
)
def test_weights_that_no_checkpoint_takes_are_gone_back_from(ranks, store, tmp_path, request, size, changes):
    """As a moment of the optimizer overflows on one rank, which neither loss nor gradient shows. Where others hold it too, the
    weight that it moves no more is not the same on all when it is to be saved."""
    config = settings(store, tmp_path, train__heal=HEAL, **changes)
    fault = Fault("moment", at=2, rank=size - 1, once=True)
    assert ranks.run(size, faulty_case, config, free_port(), fault) == [0] * size
    (act,) = state_of(tmp_path, 12).history
    is_replicated = request.node.callspec.id in ("tensor", "pipeline", "zero0")
    assert ("do not agree on" if is_replicated else "hold numbers that are not finite") in act["changes"][0]
    assert act["step"] == 0
