"""--multirun of a command that trains: a run for each value, one after the other, on one process and under torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from dist_plm.cli.sweeps import local_sweep
from dist_plm.distributed.launch_env import from_environment
from tests.train.running import make_store

SCRIPT = str(Path(__file__).resolve().parents[3] / "launch" / "pretrain.py")
SMALL = [
    *("model=gpt_tiny", "model.hidden=32", "model.heads=2", "model.layers=1", "data.sequence_length=16"),
    *("model.vocab_size=97", "model.max_positions=16", "train.global_batch=2", "train.micro_batch=1"),
    *("train.eval_samples=0", "train.eval_every=0", "train.log_every=1", "checkpoint=none", "run.name=try"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


def words(store: Path, *settings: str) -> list[str]:
    return [SCRIPT, "--multirun", *SMALL, f"data.path={store}", *settings]


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")} | {"OMP_NUM_THREADS": "1"}


def start(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False, timeout=600
    )


def last_steps(folder: Path) -> dict[str, int]:
    """The last step of each run, by name."""
    runs = sorted((folder / "runs").iterdir())
    return {run.name: json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] for run in runs}


@pytest.mark.ranks
def test_torchrun_trains_one_run_after_the_other(store, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = start(tmp_path, *torchrun, *words(store, "train.steps=2", "optim.lr=1e-3,3e-3"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert last_steps(tmp_path) == {"try-lr=0.001": 2, "try-lr=0.003": 2}
    assert result.stdout.count("run 1 of 2: try-lr=0.001") == 1
    assert result.stdout.index("run 1 of 2: try-lr=0.001") < result.stdout.index("run 2 of 2: try-lr=0.003")


@pytest.mark.ranks
def test_a_signal_reaches_the_run_and_ends_the_sweep(store, tmp_path):
    command = [sys.executable, *words(store, "train.steps=100000", "optim.lr=1e-3,3e-3", "checkpoint=default")]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        metrics = tmp_path / "runs" / "try-lr=0.001" / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_text()) and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=600)[1]
    assert process.returncode == 75, error
    assert "try-lr=0.001 ended with 75: 1 more not started; the same command goes on" in error
    assert list(last_steps(tmp_path)) == ["try-lr=0.001"]


@pytest.mark.ranks
def test_a_run_that_diverges_does_not_keep_the_others_from_being_trained(store, tmp_path):
    asked = words(store, "train.steps=4", "train.max_skipped=2", "optim=sgd", "optim.lr=1e30,1e-3,3e-3")
    held_out = ["train.eval_samples=4", "train.eval_every=4", "checkpoint=default"]
    result = start(tmp_path, sys.executable, *asked, *held_out)
    assert result.returncode == 2, result.stdout + result.stderr
    assert {name: step for name, step in last_steps(tmp_path).items() if "30" not in name} == {
        "try-lr=0.001": 4,
        "try-lr=0.003": 4,
    }
    assert (
        "1 of 3 runs ended with 2, for what is told above: try-lr=1e+30. The same command starts them" in result.stderr
    )
    assert "not started" not in result.stderr
    told = [line.split()[:2] for line in result.stdout.splitlines() if line.startswith("optim.lr")]
    assert [setting for setting, measure in told if measure == "loss"] == ["optim.lr=0.001", "optim.lr=0.003"]


@pytest.mark.parametrize(("codes", "told"), [([2, 2], [True, True]), ([2, 0], [False]), ([1, 2], [False, False])])
def test_ranks_go_on_after_a_run_that_all_of_them_saw_fail(codes, told, monkeypatch):
    monkeypatch.setattr(local_sweep, "_TOGETHER_SECONDS", 1.0)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"TORCHELASTIC_RESTART_COUNT": "0"}

    def go_on(rank: int) -> bool:
        env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        return local_sweep.failed_alone(codes[rank], from_environment(env), env, 0)

    with ThreadPoolExecutor(2) as ranks:
        assert list(ranks.map(go_on, range(len(told)))) == told


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.micro_batch=1,3"], "train.micro_batch = 3"),
        (["optim.lr=1e-3,3e-3", "run.dir=same"], "run.dir = 'same' would be of several runs"),
        (["optim.lr=1e-3,3e-3", "checkpoint.dir=same", "--check"], "checkpoint.dir = 'same' would be of several runs"),
        (["optim.lr=interval(0,1)"], "does not list its values"),
        (["optim.lrr=1,2"], "did you mean optim.lr?"),
        (["--frozen", "x.yaml", "optim.lr=1,2"], "--multirun has no effect with --frozen"),
    ],
)
def test_nothing_starts_where_one_run_is_refused(store, tmp_path, settings, message):
    result = start(tmp_path, sys.executable, *words(store, *settings))
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_several_ranks_without_torchrun_are_told_what_to_do(store, tmp_path):
    job = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0", "SLURM_NODEID": "0"}
    result = subprocess.run(
        [sys.executable, *words(store, "optim.lr=1,2")],
        cwd=tmp_path,
        env=environment() | job,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 2
    assert "launch/submit.py --multirun" in result.stderr


def test_what_only_prints_prints_for_each_run(store, tmp_path):
    result = start(tmp_path, sys.executable, *words(store, "--check", "optim.lr=1,2"))
    assert result.returncode == 0, result.stderr
    assert [line.split()[-1] for line in result.stdout.splitlines() if line.startswith("  run ")] == [
        "runs/try-lr=1",
        "runs/try-lr=2",
    ]
    help_text = start(tmp_path, sys.executable, SCRIPT, "-m", "--help").stdout
    assert "--multirun, -m" in help_text
