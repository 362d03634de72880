"""Each quickstart of an encoder or encoder-decoder: its text prepared as the Makefile says, a few steps of its experiment on a
small text of the tests, and what comes of it in Hugging Face's classes."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

from dist_plm.core.errors import CheckpointError
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert
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
#: What is set for an export to Hugging Face, where its class is, by experiment; the class that loads what comes out.
EXPORTED = {
    "roberta": (
        ["model.norm_placement=post", "model.position=learned", "model.position_offset=2"],
        "AutoModelForMaskedLM",
    ),
    "electra": (["model.norm_placement=post", "model.position=learned"], "AutoModelForPreTraining"),
    "t5": ([], "AutoModelForSeq2SeqLM"),
}


def preparation(experiment: str) -> list[str]:
    """How the Makefile has the text of an experiment prepared."""
    command = ["make", "--dry-run", "--always-make", "corpus", f"EXPERIMENT={experiment}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if "prepare_data.py" in line]
    return [word for word in shlex.split(line) if word.startswith(("tokenizer", "data.sentences", "data.out="))]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "bert" else pytest.mark.slow) for name in TERMS]
)
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
    changes, loader = EXPORTED.get(name, ([], None))
    done = launch([sys.executable, "launch/pretrain.py", f"experiment={experiment}", *where, *SHORT, *changes])
    assert done.returncode == 0, done.stderr
    records = read_metrics(tmp_path / experiment / "metrics.jsonl")
    assert records[-1]["step"] == 6
    assert records[-1]["eval/loss"] < records[-1].get("eval/initial/loss", records[0]["eval/initial/loss"])
    if len(TERMS[name]) > 1:
        assert {key.removeprefix("loss/") for key in records[-1] if key.startswith("loss/")} == TERMS[name]
        assert {key.removeprefix("eval/loss/") for key in records[-1] if key.startswith("eval/loss/")} == TERMS[name]
    assert_exported(tmp_path / experiment, loader)


def assert_exported(run: Path, loader: str | None) -> None:
    """Opens in Hugging Face's class, tokenizer included; without one the export says which settings no class has."""
    task = ConvertConfig(from_=str(run), to=str(run / "hf"), format="hf")
    if loader is None:
        with pytest.raises(CheckpointError, match=r"cannot be a model with model\.position = 'rotary'"):
            convert(task)
        return
    convert(task)
    place = run / "hf" / ("discriminator" if "electra" in run.name else "")
    model, found = getattr(transformers, loader).from_pretrained(place, output_loading_info=True)
    assert not found["missing_keys"]
    text = transformers.AutoTokenizer.from_pretrained(place)("To be, or not to be", return_tensors="pt")
    if "t5" in run.name:
        text["labels"] = text["input_ids"]
    with torch.no_grad():
        assert model(**text).logits.isfinite().all()
