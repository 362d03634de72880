"""What an earlier version wrote still opens: tests/fixtures/before, by commit e5a0ca3 of 22 November 2026.

    prepare_data.py data.sources=[{path: text.jsonl}] data.out=store tokenizer=wordpiece tokenizer.vocab_size=200
        data.split=[0.9,0.1,0.0]
    pretrain.py run.dir=run run.name=before, the settings of RUN, and train.stop_at=4

`expected.json` holds what that version read as its first samples, and the losses with which it went on itself. Its run.yaml
is from before sections had variants: it names the settings of all objectives, optimizers and engines.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from dist_plm.config import runfile
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.spec.objectives.mlm import MlmConfig
from dist_plm.spec.schema import PretrainConfig
from dist_plm.train.data import open_data
from tests.train.conftest import ROOT, launch

BEFORE = ROOT / "tests" / "fixtures" / "before"
RUN = (
    *("model=bert_tiny", "model.layers=1", "model.hidden=8", "model.heads=2", "model.vocab_multiple=4"),
    *("model.hidden_dropout=0", "model.attention_dropout=0", "objective=mlm", "data.sequence_length=32"),
    *("train.steps=6", "train.global_batch=4", "train.micro_batch=2", "train.eval_every=0", "train.eval_samples=4"),
    *("checkpoint.every=0", "cluster.peak_tflops=0.1"),
)


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BEFORE, tmp_path / "before"))


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((BEFORE / "expected.json").read_text())


def resumes_own(before: Path, *changes: str):
    places = (f"data.path={before}/store", f"run.dir={before}/run", "run.name=before")
    return launch([sys.executable, "launch/pretrain.py", *RUN, *places, *changes])


def test_its_run_file_reads_as_the_same_settings_and_gives_the_same_samples(before, expected, monkeypatch):
    config = runfile.read(before / "run" / "run.yaml", PretrainConfig)
    assert isinstance(config.objective, MlmConfig)
    assert (config.model.hidden, config.optim.name, config.engine.zero_stage) == (8, "adamw", 1)
    monkeypatch.chdir(before)
    data = open_data(config.data, config.objective, config.train, config.model)
    batch = data.objective.collate(data.samples["train"].read(np.arange(4)))
    assert {name: array.tolist() for name, array in batch.items()} == expected["batch"]


def test_a_run_goes_on_from_its_checkpoint_as_it_would_have_itself(before, expected):
    done = resumes_own(before)
    assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stdout + done.stderr
    losses = {record["step"]: record["loss"] for record in read_metrics(before / "run" / "metrics.jsonl")}
    assert losses == pytest.approx({int(step): loss for step, loss in expected["losses"].items()}, rel=1e-5)


def test_other_masks_are_refused_with_the_remedy(before):
    done = resumes_own(before, "model.hidden_dropout=0.1")
    assert done.returncode == 2, done.stderr
    assert "data.allow_change=true" in done.stderr


def test_its_checkpoint_is_described(before):
    done = launch([sys.executable, "launch/convert.py", f"inspect={before}/run"])
    assert done.returncode == 0, done.stderr
    assert "step_00000004" in done.stdout
