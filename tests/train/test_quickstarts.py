"""Each quickstart of an encoder or encoder-decoder: its text prepared as the Makefile says, and a few steps of its
experiment, on a small text of the tests."""

import shlex
import subprocess
import sys

import pytest

from dist_plm.observe.metrics import read_metrics
from tests.train.conftest import CORPUS, ROOT, launch

pytestmark = pytest.mark.ranks

SHORT = [
    "train.steps=6",
    "train.global_batch=4",
    "train.micro_batch=2",
    "train.eval_samples=8",
    "data.loader_workers=0",
]
#: Parts of the loss by experiment.
TERMS = {
    "bert": {"mlm", "nsp"},
    "roberta": {"mlm"},
    "electra": {"generator", "discriminator"},
    "t5": {"span"},
}


def preparation(experiment: str) -> list[str]:
    """How the Makefile has the text of an experiment prepared."""
    command = ["make", "--dry-run", "--always-make", "corpus", f"EXPERIMENT={experiment}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if "prepare_data.py" in line]
    return [word for word in shlex.split(line) if word.startswith(("tokenizer", "data.sentences", "data.out="))]


@pytest.mark.parametrize("name", TERMS)
def test_a_short_run(name, tmp_path):
    experiment, store = f"quickstart_{name}", tmp_path / "store"
    arguments = preparation(experiment)
    assert f"data.out=corpus/quickstart/{name}" in arguments
    arguments = [word for word in arguments if not word.startswith(("data.out=", "tokenizer.vocab_size="))]
    sources = f"data.sources=[{{path: {CORPUS}/*.txt, max_chars: 512}}]"
    size = "tokenizer.vocab_size=512"
    prepare = [sources, f"data.out={store}", "data.split=[0.6,0.2,0.2]", size, *arguments]
    prepared = launch([sys.executable, "launch/prepare_data.py", *prepare])
    assert prepared.returncode == 0, prepared.stderr
    where = [f"data.path={store}", f"run.root={tmp_path}", "cluster.peak_tflops=0.1"]
    done = launch([sys.executable, "launch/pretrain.py", f"experiment={experiment}", *where, *SHORT])
    assert done.returncode == 0, done.stderr
    records = read_metrics(tmp_path / experiment / "metrics.jsonl")
    assert records[-1]["step"] == 6
    assert records[-1]["eval/loss"] < records[-1].get("eval/initial/loss", records[0]["eval/initial/loss"])
    if len(TERMS[name]) > 1:
        assert {key.removeprefix("loss/") for key in records[-1] if key.startswith("loss/")} == TERMS[name]
        assert {key.removeprefix("eval/loss/") for key in records[-1] if key.startswith("eval/loss/")} == TERMS[name]
