"""Whole runs on gloo ranks with a slow rank, or one whose memory fails: found within the stated steps, and named."""

import json
import time
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest

from dist_plm.engines.loss_terms import LossTerms
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.spec.schema_run import ObserveConfig
from dist_plm.train.observing.observer import Observer
from dist_plm.train.observing.stragglers import Stragglers
from tests.ranks.pool import RanksError, World
from tests.ranks.ports import free_port
from tests.train.healing.faults import Fault, faulty_case
from tests.train.running import make_store, run_case, settings

pytestmark = pytest.mark.ranks

#: What a microbatch takes besides on every rank, as tiny models take no time.
SECONDS = 0.15
EVERY = {"parts_every": 5, "parts_steps": 5, "slow_times": 2, "slow_share": 0.15}
ENGINES = {"megatron": {}, "deepspeed": {"engine__name": "deepspeed", "engine__zero_stage": 2}}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


def slow_case(world: World, config, port: int, slow: int | None) -> int:
    """A run in which each microbatch takes a while, and on one rank 30 % longer."""
    original, seconds = LossTerms.of, SECONDS * (1.3 if world.rank == slow else 1.0)

    def computed(*arguments):
        time.sleep(seconds)
        return original(*arguments)

    with patch.object(LossTerms, "of", computed):
        return run_case(world, config, port)


@pytest.mark.parametrize(
    ("engine", "slow"),
    [
        ("megatron", 1),
        pytest.param("deepspeed", 1, marks=pytest.mark.slow),
        pytest.param("megatron", None, marks=pytest.mark.slow),
        pytest.param("deepspeed", None, marks=pytest.mark.slow),
    ],
)
def test_a_slow_rank_is_named(ranks, store, tmp_path, engine, slow):
    changes = {"train__observe": EVERY, "train__eval_samples": 0, "train__steps": 10, "train__global_batch": 4}
    config = settings(store, tmp_path, **changes, cluster__exclude_slow=True, **ENGINES[engine])
    assert ranks.run(2, slow_case, config, free_port(), slow) == [0, 0]
    records = read_metrics(tmp_path / "metrics.jsonl")
    looked = [record for record in records if "step_parts/forward" in record]
    assert [record["step"] for record in looked] == [5, 10]
    parts = {name.removeprefix("step_parts/") for name in looked[0] if name.startswith("step_parts/")}
    assert parts == {"data", "forward", "backward", "communication", "optimizer"}
    named = [(record["step"], record["slow/rank"]) for record in looked if "slow/rank" in record]
    lines = [json.loads(line) for line in (tmp_path / "step_parts.jsonl").read_text().splitlines()]
    assert [len(line["seconds"]["forward"]) for line in lines] == [2] * 2
    told, excluded = (tmp_path / "log" / "rank_00000.log").read_text(), tmp_path / "slurm" / "slow_nodes"
    if slow is None:
        assert named == []
        assert "as long as its peers" not in told
        assert not excluded.exists()
        return
    assert named == [(10, slow)]
    assert told.count(f"rank {slow} on node {lines[0]['nodes'][slow]} takes 1.") == 1
    assert excluded.read_text() == f"{lines[0]['nodes'][slow]}\n"
    waited = [sum(line["seconds"]["communication"][rank] for line in lines) for rank in (0, 1)]
    assert waited[1 - slow] > waited[slow], "the other waits for it"


@pytest.mark.parametrize("exclude", [False, True])
def test_what_is_set_already_is_not_advised(caplog, exclude):
    parts: Any = dict.fromkeys(("engine", "control", "replicas", "profile", "layers", "run_dir"))
    observer = Observer(
        **parts,
        settings=ObserveConfig(),
        groups=cast(Any, SimpleNamespace(rank=1)),
        stragglers=Stragglers([[0, 1]], share=0.2, times=3),
        nodes=["gpu06", "gpu07"],
        exact=True,
        exclude=exclude,
    )
    observer._tell_slow(300, 1, 1.31)
    (told,) = caplog.messages
    assert (
        "rank 1 on node gpu07 takes 1.31 times as long as its peers, for the last 300 steps: look at that machine"
        in told
    )
    assert ("or set cluster.exclude_slow=true" in told) is not exclude
    assert ("other nodes than that (cluster.exclude_slow=true)" in told) is exclude


#: What keeps the share and the number of intervals in a row as they are by default.
DEFAULTS = {"parts_every": 5, "parts_steps": 5}


@pytest.mark.slow
@pytest.mark.parametrize("slow", [True, False])
@pytest.mark.parametrize(
    ("size", "changes"),
    [
        pytest.param(2, {}, id="megatron-data"),
        pytest.param(2, {"parallel__tensor": 2}, id="megatron-tensor"),
        pytest.param(4, {"parallel__pipeline": 2}, id="megatron-data-pipeline"),
        pytest.param(2, ENGINES["deepspeed"], id="deepspeed-data"),
        pytest.param(2, {"engine__name": "deepspeed", "parallel__tensor": 2}, id="deepspeed-tensor"),
        pytest.param(4, {"engine__name": "deepspeed", "parallel__pipeline": 2}, id="deepspeed-data-pipeline"),
    ],
)
def test_the_defaults_name_a_rank_that_is_made_30_percent_slower(ranks, store, tmp_path, size, changes, slow):
    """In the third interval, whatever the grid; and nobody where all are alike."""
    looks = {"train__observe": DEFAULTS, "train__steps": 15, "train__eval_samples": 0, "train__global_batch": 4}
    config, last = settings(store, tmp_path, **looks, **changes), size - 1
    assert ranks.run(size, slow_case, config, free_port(), last if slow else None) == [0] * size
    records = read_metrics(tmp_path / "metrics.jsonl")
    named = [(record["step"], record["slow/rank"]) for record in records if "slow/rank" in record]
    assert named == ([(15, last)] if slow else [])


@pytest.mark.parametrize("on_mismatch", ["warn", "stop"])
def test_a_failing_memory_is_found(ranks, store, tmp_path, on_mismatch):
    observe = {"replicas_every": 4, "passes_every": 4, "on_mismatch": on_mismatch}
    changes = {
        "train__observe": observe,
        "train__eval_samples": 0,
        "engine__zero_stage": 0,
        "cluster__exclude_slow": True,
        "track__to": ["csv"],
    }
    config = settings(store, tmp_path, **changes)
    said = "do not agree on layers.0.attention_norm.weight"
    if on_mismatch == "stop":
        with pytest.raises(RanksError, match=f"step 8: .*{said}.*agreed last after step 4") as told:
            ranks.run(2, faulty_case, config, free_port(), Fault("bit", at=6, rank=1, once=True))
        assert told.value.args[0].count("ReplicasDifferError") >= 1
        assert (tmp_path / "checkpoints" / "latest").read_text().strip() == "step_00000004"
        assert (tmp_path / "report.html").exists()
        return
    assert ranks.run(2, faulty_case, config, free_port(), Fault("bit", at=6, rank=1, once=True)) == [0, 0]
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert {record["step"] for record in records if record.get("replicas/differing")} == {8, 12}
    assert {record["step"] for record in records if record.get("passes/differing")} == {8, 12}
    assert said in (tmp_path / "log" / "rank_00000.log").read_text()
    assert not (tmp_path / "slurm" / "slow_nodes").exists(), "of two, who is wrong cannot be told"
