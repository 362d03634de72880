"""Whole runs: a resumed one is the uninterrupted one, checkpoints move between devices, and what is looked at is there."""

import json
import math
import pickle

import pytest
import torch

from dist_plm.monitor.metrics_file import read_metrics
from tests.ranks.ports import free_port
from tests.ranks.test_encoders import DROPOUT
from tests.train.running import make_store, run_case, settings, timeless

pytestmark = pytest.mark.ranks

CHANGES = {"train__steps": 6, "train__eval_every": 3, "checkpoint__every": 3, **DROPOUT}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


def records(run_dir) -> list[dict]:
    """What depends neither on the clock nor on the device."""
    found = read_metrics(run_dir / "metrics.jsonl")
    assert all(math.isfinite(record["loss"]) for record in found)
    return [{k: v for k, v in timeless(record).items() if k != "memory_gib"} for record in found]


def without_worst(found: list[dict]) -> list[dict]:
    """Leaves out the worst microbatch, which is another where microbatches are of another size."""
    return [{k: v for k, v in record.items() if not k.startswith("worst/")} for record in found]


def close(ours: list[dict], theirs: list[dict], rtol: float) -> None:
    assert [record.keys() for record in ours] == [record.keys() for record in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for key, value in one.items():
            if "accuracy" not in key and isinstance(value, float):
                torch.testing.assert_close(value, other[key], rtol=rtol, atol=0, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_is_uninterrupted(on, device, store, tmp_path, precision):
    """To the bit, as on the CPU, where PyTorch is told to take such algorithms alone."""
    changes = {
        **CHANGES,
        "cluster__device": device,
        "precision__name": precision,
        "train__deterministic": device == "cuda",
    }
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert on(1, run_case, settings(store, whole, **changes), free_port()) == [0]
    assert on(1, run_case, settings(store, halves, train__stop_at=3, **changes), free_port()) == [0]
    assert on(1, run_case, settings(store, halves, **changes), free_port()) == [0]
    assert records(halves) == records(whole)


@pytest.mark.parametrize("engine", ["megatron", "deepspeed"])
def test_a_run_of_the_cpu_goes_on_here(on, ranks, device, store, tmp_path, engine):
    """Begun by Megatron's engine on the CPU."""
    if device == "cpu" and engine == "megatron":
        pytest.skip("that is the test before")
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    assert ranks.run(1, run_case, settings(store, whole, **CHANGES), free_port()) == [0]
    assert ranks.run(1, run_case, settings(store, moved, train__stop_at=3, **CHANGES), free_port()) == [0]
    here = {"cluster__device": device, "engine__name": engine}
    assert on(1, run_case, settings(store, moved, **CHANGES, **here), free_port()) == [0]
    close(records(moved), records(whole), rtol=2e-5)


def test_a_run_from_here_goes_on_on_the_cpu(on, ranks, device, store, tmp_path):
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    assert on(1, run_case, settings(store, whole, **CHANGES, cluster__device=device), free_port()) == [0]
    assert on(
        1, run_case, settings(store, moved, train__stop_at=3, **CHANGES, cluster__device=device), free_port()
    ) == [0]
    assert ranks.run(1, run_case, settings(store, moved, **CHANGES, train__micro_batch=4), free_port()) == [0]
    close(*(without_worst(records(run)) for run in (moved, whole)), rtol=2e-5)


def test_parts_of_steps_and_a_profile_are_kept(on, device, store, tmp_path):
    """On a GPU parts are times of its events, and a snapshot of its memory lies beside the trace."""
    looks = {"train__profile": {"steps": [2, 3]}, "train__observe": {"parts_every": 4, "parts_steps": 2}}
    config = settings(store, tmp_path, train__steps=4, cluster__device=device, **looks)
    assert on(1, run_case, config, free_port()) == [0]
    (line,) = (tmp_path / "step_parts.jsonl").read_text().splitlines()
    seconds = json.loads(line)["seconds"]
    assert all(seconds[part][0] > 0 for part in ("forward", "backward", "optimizer"))
    assert (tmp_path / "profiles" / "step_00000002_rank_00000.json.gz").stat().st_size > 0
    snapshot = tmp_path / "profiles" / "step_00000002_rank_00000_memory.pickle"
    assert snapshot.exists() is (device == "cuda")
    if device == "cuda":
        assert any(pickle.loads(snapshot.read_bytes())["device_traces"])
