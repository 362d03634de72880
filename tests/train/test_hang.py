"""Whole runs, as a user starts them, that hang or are started a second time while the first goes on."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_plm.core.errors import EXIT_HUNG
from dist_plm.monitor.flight_recorder import last_collective
from dist_plm.monitor.metrics_file import read_metrics
from tests.monitor.read_back import only_mlflow_run
from tests.monitor.test_trackers import wandb_history, wandb_records
from tests.train.conftest import ROOT, TINY

pytestmark = pytest.mark.ranks

#: Seconds without progress: more than ranks that are alive wait for each other on a busy machine.
LEAST = 10.0
ENDLESS = (
    "train.steps=1000000",
    "train.eval_samples=0",
    "train.eval_every=0",
    "data.loader_workers=0",
    f"train.hang_minutes={LEAST / 60}",
    "train.hang_factor=1",  # of a step's time, which on a busy machine may be half a second
)


@dataclass(frozen=True, slots=True)
class Run:
    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        return self.log.read_text()

    def wait(self) -> int:
        return self.process.wait(600)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)


@contextmanager
def running(ranks: int, store: Path, run_dir: Path, *overrides: str, restarts: int = 0) -> Iterator[Run]:
    start = ["-m", "dist_plm.cluster.torchrun", "--standalone", "--local-addr=127.0.0.1", f"--nproc-per-node={ranks}"]
    start.append(f"--max-restarts={restarts}")
    argv = [sys.executable, *(start if ranks > 1 else []), "launch/pretrain.py", f"data.path={store}"]
    argv += [f"run.dir='{run_dir}'", *TINY, *ENDLESS, *overrides]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(ROOT)}
    log = run_dir.with_name(f"{run_dir.name}.{time.monotonic_ns()}.log")
    with log.open("wb") as output:
        process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=output, stderr=output)
    try:
        yield Run(process, log)
    finally:
        process.terminate()
        process.wait(600)


def steps(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def pid_of(run: Run, rank: int, run_dir: Path, start: int) -> int:
    seen = run_dir / f"seen/start_{start}/rank_{rank:05d}.json"
    run.wait_for(seen.exists)
    return json.loads(seen.read_text())["pid"]


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def check_trackers(run_dir: Path) -> None:
    """Each has every step once, of one run, and the page of its end."""
    steps = [record["step"] for record in read_metrics(run_dir / "metrics.jsonl")]
    with (run_dir / "metrics.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == steps
    seen = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in seen.Scalars("loss")] == steps
    assert "report/text_summary" in seen.Tags()["tensors"]

    client, run = only_mlflow_run(run_dir)
    assert run.info.run_id == (run_dir / "mlflow" / "run_id").read_text().strip()
    assert run.info.status == "FAILED"
    assert [one.step for one in client.get_metric_history(run.info.run_id, "loss")] == steps
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["report.html"]

    ((run_id, rows),) = wandb_history(run_dir)
    assert run_id == (run_dir / "wandb" / "run_id").read_text().strip()
    assert [(row["step"], row["_step"]) for row in rows if "loss" in row] == [(step, step) for step in steps]
    assert {path.name.split("-")[-1].split(".")[0] for path in (run_dir / "wandb" / "earlier").iterdir()} == {run_id}
    (file,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    records = wandb_records(file)
    assert [one.exit.exit_code for one in records if one.WhichOneof("record_type") == "exit"] == [EXIT_HUNG]
    kept = [one.artifact for one in records if one.WhichOneof("record_type") == "artifact"]
    assert [entry.path for one in kept for entry in one.manifest.contents] == ["report.html"]


def test_a_killed_rank_is_started_again_with_the_others_and_a_stopped_one_is_named(store: Path, tmp_path: Path) -> None:
    """With all trackers, which rank 0 has, whom a signal kills that nobody can catch."""
    # Rarely, so that none is being written when the next is due: that wait is a patient one.
    with running(
        2, store, tmp_path, "checkpoint.every=50", "track.to=[wandb,mlflow,csv,tensorboard]", restarts=1
    ) as run:
        run.wait_for(lambda: (tmp_path / "checkpoints" / "latest").exists())
        os.kill(pid_of(run, 0, tmp_path, 1), signal.SIGKILL)
        run.wait_for(lambda: (tmp_path / "starts.jsonl").read_text().count("\n") == 2)
        before = steps(tmp_path)
        run.wait_for(lambda: steps(tmp_path) > before + 1)
        # Where the other was is in its log, and not on the console, which gets it from every rank of a large run.
        assert (
            "another rank is gone, while this one was here:\nTraceback"
            in (tmp_path / "log" / "rank_00001.log").read_text()
        )
        (tmp_path / "report.html").unlink(missing_ok=True)

        speaker, stopped = (pid_of(run, rank, tmp_path, 2) for rank in (0, 1))
        os.kill(stopped, signal.SIGSTOP)
        log = tmp_path / "log" / "rank_00000.log"
        run.wait_for(lambda: "said nothing" in log.read_text())
        # torchrun would wait 30 s before it kills what it cannot terminate; once it knows how rank 0 ended, it need not.
        run.wait_for(lambda: has_ended(speaker))
        os.kill(stopped, signal.SIGCONT)
        code = run.wait()
    assert code not in (0, 2, 75)
    output = run.output()
    assert ", rank 1: another rank is gone, or the network to it: " in output
    assert "[rank1]: Traceback" not in output
    assert f"rank 0 with {EXIT_HUNG}" in output
    assert f"no progress for {LEAST:.0f} s: 1 of 2 ranks wait, rank 1 said nothing" in output
    assert f", process {stopped}, at " in output
    text = log.read_text()
    assert 'dist_plm/train/loop.py", line' in text, "the stacks are not in the log"
    # Which collective of a step the other rank was stopped before is chance.
    record = json.loads((tmp_path / "log" / "rank_00000.flight.json").read_text())
    collective = last_collective(record)
    assert collective is not None
    assert collective.startswith(("shared_memory:", "gloo:"))
    assert f", last in {collective};" in text
    records = [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert records == list(range(1, records[-1] + 1))
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    check_trackers(tmp_path)


def test_a_second_start_ends_the_first_which_writes_nothing_more(store: Path, tmp_path: Path) -> None:
    with running(1, store, tmp_path, "checkpoint.every=50") as first:
        first.wait_for(lambda: steps(tmp_path) >= 60)
        with running(1, store, tmp_path, "checkpoint.every=1000000") as second:
            assert first.wait() == 2
            second.process.terminate()
            assert second.wait() == 75, second.output()
    told = first.output()
    assert "was taken over by start 2 of this run" in told
    assert "Traceback" not in told
    records = [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert records == list(range(1, records[-1] + 1))
    assert (tmp_path / "checkpoints" / "latest").read_text() == f"step_{records[-1]:08d}\n"
