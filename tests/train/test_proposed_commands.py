"""What a finished run proposes can be started as it is printed."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dist_plm.cli.app import load
from dist_plm.data.store.manifest import read_manifest
from dist_plm.distributed.device import Device
from dist_plm.monitor.metrics_file import MetricsWriter
from dist_plm.spec.inference.schema import EvaluateConfig
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import PretrainConfig
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.spec.schema_finetune import LabelledDataConfig
from dist_plm.train.ending.closing_summary import closing_summary
from dist_plm.train.ending.proposed_runs import ProposedRun, proposed_runs
from tests.spec.make import pretrain
from tests.train.conftest import ROOT, TINY

CPU = Device(kind="cpu", torch_device=torch.device("cpu"), backend="gloo")
GPU = Device(kind="cuda", torch_device=torch.device("cuda", 0), backend="nccl")
LONGER = "train.steps=40"
RECORD = (
    '{"step": 1, "loss": 1.0, "lr": 0.1, "grad_norm": 1.0, "tokens_seen": 1, "samples_seen": 1, "tokens_per_second": 1.0, '
    '"step_seconds": 1.0, "mfu": null, "loss_scale": null, "skipped": 0}\n'
)


def proposed(device: Device = CPU, **changes) -> list[tuple[int, ...]]:
    sizes = {"train__steps": 4, "train__global_batch": 4, "train__micro_batch": 2, "model__heads": 2, **changes}
    config = finalize(pretrain(**sizes), world_size=1, vocab_size=None)
    return [(run.processes, *run.changes) for run in proposed_runs(config, device)]


TENSOR = (2, "parallel.tensor=2", "run.name=tensor2")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [TENSOR, (2, LONGER, "run.name=longer")]),
        ({"model__heads": 1, "model__hidden": 32}, [(2, LONGER, "run.name=longer")]),
        ({"train__micro_batch": 4}, [TENSOR, (1, LONGER, "run.name=longer")]),
        ({"train__stop_at": 2}, [TENSOR, (2, "train.stop_at=null", LONGER, "run.name=longer")]),
    ],
)
def test_only_grids_that_the_rules_allow(changes, expected):
    assert proposed(**changes) == expected


@pytest.mark.parametrize(("capability", "precision"), [((9, 0), ["precision=bf16"]), ((7, 5), [])])
def test_bf16_where_a_gpu_is_fast_at_it(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert proposed(GPU) == [(1, *precision, LONGER, "run.name=longer")]
    assert proposed(GPU, precision__name="bf16") == [(1, LONGER, "run.name=longer")]


def commands(run_dir: Path, config: PretrainConfig, *started: str) -> list[str]:
    MetricsWriter(run_dir / "metrics.jsonl").close()
    (run_dir / "metrics.jsonl").write_text(RECORD)
    runs = [ProposedRun(1, (LONGER,))]
    told = closing_summary(run_dir, config.checkpoint, ["pretrain", *started], config.model, config.data, runs)
    return told.partition("next:\n")[2].split("\n")


def test_nothing_is_asked_of_a_run_that_cannot_answer(tmp_path: Path, store: Path) -> None:
    config = pretrain(data__path=str(store), data__sequence_length=32)
    assert len(commands(tmp_path, config)) == 1, "it has no checkpoint, and no settings"
    (tmp_path / "checkpoints" / "step_00000001").mkdir(parents=True)
    assert len(commands(tmp_path, config, "a=b")) == 4
    small = max(read_manifest(store).split(name).tokens for name in ("test", "validation"))
    for length, told in ((small, " data.split=train"), (10**9, None)):
        asked = commands(tmp_path, replace(config, data=replace(config.data, sequence_length=length)), "a=b")
        assert len(asked) == (4 if told else 3), "no split has text for a sample"
        assert told is None or asked[1].endswith(told)
    bare = replace(config, data=replace(config.data, path=f"{store}/train"))
    assert len(commands(tmp_path, bare)) == 1, "nobody knows the tokenizer"


def test_they_are_read_as_they_are_printed(tmp_path: Path) -> None:
    """Names that a shell or Hydra would take apart."""
    run_dir, rows, header = tmp_path / "lr=3e-4, it's größe", "cls (1).csv", ('a "b"', "c,d", "größe")
    (run_dir / "checkpoints" / "step_00000001").mkdir(parents=True)
    config = pretrain()
    labelled, head = (
        LabelledDataConfig(train=rows, header=header, sequence_length=32),
        replace(config.model, head="sequence"),
    )
    MetricsWriter(run_dir / "metrics.jsonl").close()
    (run_dir / "metrics.jsonl").write_text(RECORD)
    told = closing_summary(run_dir, config.checkpoint, ["finetune"], head, labelled)
    _, evaluate, convert = (shlex.split(line) for line in told.partition("next:\n")[2].strip().split("\n"))
    asked, _ = load(EvaluateConfig, "evaluate", evaluate[2:])
    assert (asked.from_, asked.data.rows, asked.data.header) == (str(run_dir), rows, header)
    told = closing_summary(run_dir, config.checkpoint, ["finetune"], head, replace(labelled, test="told.jsonl"))
    assert "data.rows=told.jsonl" in told
    assert "data.header" not in told, "rows of JSON have names for their values"
    converted, _ = load(ConvertConfig, "convert", convert[2:])
    assert (converted.from_, converted.to) == (str(run_dir), f"{run_dir}/hf")


@pytest.mark.slow
def test_they_run_from_anywhere(tmp_path: Path, store: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": str(ROOT),
    }

    def run(line: str) -> str:
        done = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (line, done.stderr)
        return done.stdout

    settings = (f"data.path={store}", "train.steps=2", "run.name=first", *TINY)
    told = run(f"python {ROOT}/launch/pretrain.py model=gpt_tiny {' '.join(settings)}")
    lines = [line.strip() for line in told.partition("next:\n")[2].strip().split("\n")]
    assert [Path(line.split()[1]).stem for line in lines[:3]] == ["report", "evaluate", "generate"]
    for line in (*lines[1:3], f"{lines[-1]} --check"):
        run(line)
