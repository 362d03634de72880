"""bench/gpu.py on the CPU, where shapes are tiny: all of it runs, and what fails costs nothing but itself."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import gpu  # pyright: ignore[reportMissingImports]
import gpu_profile  # pyright: ignore[reportMissingImports]
from gpu_timing import Notes, kernels_of, seconds_of, union  # pyright: ignore[reportMissingImports]

BENCH = Path(__file__).parents[2] / "bench"


def measured(out: Path, *parts: str) -> dict[str, list[dict]]:
    command = [sys.executable, str(BENCH / "gpu.py"), "--device", "cpu", "--quick", "--out", str(out)]
    command += ["--parts", *parts] if parts else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((out / "gpu.json").read_text())["rows"]
    assert not [row for row in rows if "failed" in row]
    return {table: [row for row in rows if row["table"] == table] for table in {row["table"] for row in rows}}


def test_training_steps_of_both_sides(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # compiling takes most of the time; test_everything does
    tables = measured(tmp_path, "gpt2_medium")
    assert {row["name"] for row in tables["gpt2_medium"]} >= {"ours", "transformers"}
    assert all(row["tokens_per_second"] > 0 and 0 < row["mfu"] < 2 for row in tables["gpt2_medium"])
    assert "| ours |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
def test_everything(tmp_path):
    tables = measured(tmp_path)
    assert tables.keys() == {"ceilings", "kernels", "bert_large", "gpt2_medium", "t5_base"} | {
        "profile of bert_large",
        "the host in a step of bert_large",
    }
    assert len(tables["profile of bert_large"]) == len(tables["the host in a step of bert_large"]) == 25


def test_a_step_is_taken_apart(tmp_path, monkeypatch):
    """One that nothing has to be compiled for."""
    learned = torch.ones(4, 4, requires_grad=True)
    monkeypatch.setattr(gpu_profile, "our_step", lambda *_: lambda: learned.mm(learned).exp().sum().backward())
    cpu = SimpleNamespace(device=SimpleNamespace(torch_device=torch.device("cpu")))
    gpu_profile.profile(Notes(tmp_path / "notes"), cpu, tmp_path, quick=True, small=True)
    rows = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    assert not [row for row in rows if "failed" in row]
    names = {row["name"] for row in rows if row["table"] == "profile of bert_large"}
    assert {"aten::mm", "aten::exp"} <= names
    assert any("backward" in row["name"] for row in rows if row["table"] == "the host in a step of bert_large")
    assert json.loads((tmp_path / "trace_bert_large.json").read_text())["traceEvents"]


def test_a_part_that_fails_or_takes_too_long_is_told(tmp_path, monkeypatch):
    args = argparse.Namespace(device="nowhere", quick=True, out=tmp_path, notes=tmp_path / "notes")
    monkeypatch.setitem(gpu.PARTS, "ceilings", (600, 600))
    failure = gpu.attempt_part("ceilings", args, 600.0)
    assert failure is not None
    assert "exit code 2" in failure["failed"]
    assert "invalid choice" in (tmp_path / "ceilings.log").read_text()
    monkeypatch.setitem(gpu.PARTS, "ceilings", (0.1, 0.1))
    assert "not done in 0 seconds" in gpu.attempt_part("ceilings", args, 100.0)["failed"]
    assert "no time was left" in gpu.attempt_part("ceilings", args, 1.0)["failed"]


def test_a_row_that_fails_does_not_end_its_part(tmp_path):
    notes = Notes(tmp_path / "notes")
    notes.attempt("t", "first", lambda: {"ms": 1 / 0})
    notes.attempt("t", "second", lambda: {"ms": 2.0})
    first, second = (json.loads(line) for line in (tmp_path / "notes").read_text().splitlines())
    assert first["failed"] == "ZeroDivisionError: division by zero"
    assert second["ms"] == 2.0
    assert "| second |  | 2 |" in gpu.as_markdown({}, [first, second])


def test_time_in_which_something_runs():
    assert union([("a", 0.0, 4.0), ("b", 1.0, 2.0), ("c", 3.0, 3.0), ("d", 10.0, 1.0)]) == 7.0


def test_what_the_host_names_is_no_kernel():
    """Two kernels that an optimizer launches, and the span that it leaves beside them on the GPU: as PyTorch tells them."""
    spans = [("second", 90, 100, False), ("first", 0, 10, False), ("Optimizer.step#AdamW.step", 0, 100, True)]
    events = EventList(
        FunctionEvent(i, name, 0, start, end, device_type=DeviceType.CUDA, is_user_annotation=named)
        for i, (name, start, end, named) in enumerate(spans)
    )
    kernels = kernels_of(SimpleNamespace(events=lambda: events))
    assert kernels == [("first", 0, 10), ("second", 90, 10)]
    assert union(kernels) == 20


def test_work_is_called_often_enough():
    calls = []
    seconds = seconds_of(lambda: calls.append(1), torch.device("cpu"), warm=2, budget=0.01)
    assert len(calls) > 5
    assert 0 < seconds < 0.01
