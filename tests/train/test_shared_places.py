"""Whole runs, as a user starts them, whose directories others use too, take away, or that are interrupted in a save."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.core.errors import EXIT_INTERRUPTED, EXIT_REFUSED
from dist_plm.monitor.metrics_file import read_metrics
from tests.train.conftest import ROOT, TINY

LONG = ("train.steps=400", "train.eval_samples=0", "train.eval_every=0", "checkpoint.every=5", "data.loader_workers=0")


def begin(store: Path, run_dir: Path, *overrides: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "launch/pretrain.py", f"data.path={store}", f"run.dir={run_dir}", *TINY, *LONG, *overrides]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(argv, cwd=ROOT, env=environment, text=True, preexec_fn=_hear_interrupts, **pipes)


def _hear_interrupts() -> None:
    """Undoes what a shell does to commands behind `&`, the tests among them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_of_two_runs_at_once_one_gets_the_directory_of_checkpoints(store: Path, tmp_path: Path) -> None:
    place = f"checkpoint.dir={tmp_path}/shared"
    runs = [begin(store, tmp_path / name, place, "train.steps=20") for name in ("one", "two")]
    ended = [(run.communicate(timeout=300)[0], run.returncode) for run in runs]
    assert sorted(code for _, code in ended) == [0, EXIT_REFUSED], ended
    winner, loser = sorted(("one", "two"), key=lambda name: [code for _, code in ended][name == "two"])
    said = next(said for said, code in ended if code)
    assert f"checkpoint.dir = {tmp_path}/shared belongs to the run at {tmp_path}/{winner}" in said
    assert "Traceback" not in said
    assert LocalStorage(tmp_path / "shared").steps()[-1] == 20
    assert len(read_metrics(tmp_path / winner / "metrics.jsonl")) == 20
    assert not (tmp_path / loser / "metrics.jsonl").exists()


def test_a_run_directory_that_is_away_for_a_while_ends_nothing(store: Path, tmp_path: Path) -> None:
    run_dir, away = tmp_path / "run", tmp_path / "away"
    run = begin(store, run_dir)
    wait_for(run, (run_dir / "checkpoints" / "latest").exists)
    run_dir.rename(away)
    wait_for(run, lambda: not run_dir.exists())
    time.sleep(1.0)
    assert not (run_dir / "metrics.jsonl").exists()
    away.rename(run_dir)
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert "Traceback" not in said
    assert [record["step"] for record in read_metrics(run_dir / "metrics.jsonl")] == list(range(1, 401))
    assert LocalStorage(run_dir / "checkpoints").steps()[-1] == 400


def test_an_interrupt_while_a_checkpoint_is_written_is_quiet_and_the_run_goes_on(store: Path, tmp_path: Path) -> None:
    wide = ("model.hidden=512", "model.layers=4", "checkpoint.every=1")
    run = begin(store, tmp_path / "run", *wide)
    folder = tmp_path / "run" / "checkpoints"
    wait_for(run, lambda: (folder / "latest").exists() and bool(list(folder.glob("*.tmp"))))
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=300)
    assert run.returncode == EXIT_INTERRUPTED, said
    assert said.rstrip().endswith("interrupted")
    for word in ("Traceback", "terminate called", "Aborted"):
        assert word not in said
    before = LocalStorage(folder).steps()[-1]
    again = begin(store, tmp_path / "run", *wide, f"train.stop_at={before + 1}")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert f"resumed from {folder}/step_{before:08d}" in said
    assert not list(folder.glob("*.tmp"))
