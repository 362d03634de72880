"""A small store of real text, and the launch scripts run as a user runs them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "data" / "texts"

#: A model and batch small enough that a step costs milliseconds.
TINY = (
    "model.layers=2",
    "model.hidden=32",
    "model.heads=2",
    "data.sequence_length=32",
    "train.global_batch=8",
    "train.micro_batch=2",
    "train.eval_samples=16",
    "optim.lr=2e-2",
    "cluster.peak_tflops=0.1",
)


def launch(command: list[str], *, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **(env or {})}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "store"
    sources = f"[{{path: {CORPUS}/*.txt, max_chars: 512}}, {{path: {CORPUS}/*.jsonl}}]"
    arguments = [f"data.sources={sources}", f"data.out={out}", "tokenizer.vocab_size=512", "data.split=[0.8,0.1,0.1]"]
    done = launch([sys.executable, "launch/prepare_data.py", *arguments])
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def pretrain(store: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs launch/pretrain.py on the small store; `ranks` above 1 start it under torchrun."""

    def run(name: str, *overrides: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
        python = [sys.executable]
        if ranks > 1:
            python += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        where = (f"data.path={store}", f"run.root={tmp_path}", f"run.name={name}")
        return launch([*python, "launch/pretrain.py", *where, *TINY, *overrides])

    return run
