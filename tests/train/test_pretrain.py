"""launch/pretrain.py as a user runs it: a real store, real processes, the files they leave behind."""

import json
import math
import sys

import pytest
import yaml

from dist_plm.config.decode import flatten
from dist_plm.core.errors import EXIT_REFUSED
from dist_plm.monitor.metrics_file import read_metrics
from tests.train.conftest import launch

KEYS = {
    "step",
    "loss",
    "lr",
    "grad_norm",
    "tokens_seen",
    "samples_seen",
    "tokens_per_second",
    "step_seconds",
    "mfu",
    "loss_scale",
    "skipped",
    "skipped_share",
    "worst/loss",
    "worst/first_sample",
    "worst/last_sample",
}

pytestmark = pytest.mark.ranks


def test_a_run_on_two_ranks_learns_and_leaves_what_the_contract_says(pretrain, tmp_path):
    done = pretrain("two", "train.steps=30", "train.eval_every=10", "checkpoint.every=10", ranks=2)
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "two"
    records = read_metrics(run_dir / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, 31))
    assert set(records[5]) == KEYS
    assert records[-1]["samples_seen"] == 30 * 8
    assert records[-1]["tokens_seen"] == 30 * 8 * 32
    assert 0 < records[-1]["mfu"] < 1
    assert records[-1]["loss"] < records[0]["loss"] - 0.7
    assert records[-1]["eval/perplexity"] == pytest.approx(math.exp(records[-1]["eval/loss"]))
    assert records[-1]["eval/perplexity"] < 0.5 * records[0]["eval/initial/perplexity"]
    assert {record["step"] for record in records if "eval/loss" in record} == {10, 20, 30}
    assert str(run_dir) in done.stdout
    assert "perplexity" in done.stdout
    assert done.stdout.count("torchrun") == 2, "the summary names commands to try next"
    origins = json.loads((run_dir / "origins.json").read_text())
    assert origins["train.steps"].startswith("command line  (over conf/train/")
    assert origins["model.vocab_size"] == "derived"
    resolved = yaml.safe_load((run_dir / "run.yaml").read_text())
    assert set(origins) | {"started_in"} == set(flatten(resolved))
    assert resolved["parallel"]["data"] == 2
    assert resolved["model"]["vocab_size"] == 512
    assert {path.name for path in (run_dir / "log").iterdir()} == {"rank_00000.log", "rank_00001.log"}
    assert (run_dir / "checkpoints" / "step_00000030").is_dir()
    assert not list((run_dir / "checkpoints").glob("*.tmp"))


@pytest.mark.slow
def test_a_stopped_run_continues_with_the_same_losses(pretrain, tmp_path):
    settings = ("train.steps=12", "model.hidden_dropout=0.1", "checkpoint.every=4", "data.loader_workers=0")
    assert pretrain("whole", *settings).returncode == 0
    assert pretrain("parts", *settings, "train.stop_at=5").returncode == 0
    again = pretrain("parts", *settings)
    assert again.returncode == 0, again.stderr
    whole, parts = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    for key in ("step", "loss", "grad_norm", "lr", "samples_seen"):
        assert [record[key] for record in parts] == [record[key] for record in whole], key
    assert parts[-1]["eval/loss"] == whole[-1]["eval/loss"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.path=nowhere/at/all"], ["data.path", "nowhere/at/all", "prepare_data"]),
        pytest.param(["data.sequence_length=100000"], ["window", "100"], marks=pytest.mark.slow),
        (["train.resume=nowhere"], ["nowhere", "train.resume"]),
    ],
)
def test_data_and_checkpoints_are_refused_in_one_message(pretrain, overrides, words):
    done = pretrain("refused", *overrides)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_a_run_that_diverged_says_it_once_and_is_refused(pretrain, tmp_path):
    done = pretrain("broken", "optim.lr=1e30", "train.steps=5", ranks=2)
    assert "[rank" not in done.stderr, done.stderr
    assert done.stderr.count("the run diverged: after step 5 the loss is nan") == 1
    assert done.returncode != 0
    alone = pretrain("alone", "optim.lr=1e30", "train.steps=5")
    assert alone.returncode == EXIT_REFUSED, alone.stderr
    assert "there is no checkpoint from before" in alone.stderr
    assert "Traceback" not in alone.stderr
    assert not (tmp_path / "alone" / "checkpoints" / "latest").exists()


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(pretrain, tmp_path):
    assert pretrain("done", "train.steps=2").returncode == 0
    before = (tmp_path / "done" / "metrics.jsonl").read_bytes()
    again = pretrain("done", "train.steps=2")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "done" / "metrics.jsonl").read_bytes() == before


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    root = tmp_path_factory.mktemp("quickstart")
    raw, store = root / "raw", root / "store"
    fetched = launch([sys.executable, "launch/fetch_quickstart.py", str(raw)])
    if fetched.returncode != 0:
        pytest.skip(f"the corpus of the quickstart cannot be fetched here: {fetched.stderr.strip()}")
    prepare = [sys.executable, "launch/prepare_data.py", f"data.sources=[{{path: {raw}/*.txt, max_chars: 8192}}]"]
    prepared = launch([*prepare, f"data.out={store}"])
    assert prepared.returncode == 0, prepared.stderr
    return store


@pytest.mark.slow
def test_loss_falls_on_the_quickstart_corpus(quickstart, tmp_path, capsys):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    overrides = ["experiment=quickstart", f"data.path={quickstart}", f"run.root={tmp_path}", "train.stop_at=30"]
    done = launch([*torchrun, "launch/pretrain.py", *overrides, "cluster.peak_tflops=0.2"])
    assert done.returncode == 0, done.stderr
    records = read_metrics(tmp_path / "quickstart" / "metrics.jsonl")
    start, end = records[0]["loss"], records[-1]["loss"]
    with capsys.disabled():
        print(f"\nquickstart corpus: loss {start:.3f} -> {end:.3f} after 30 steps")
    assert end < start - 2.0
