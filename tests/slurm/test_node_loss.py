"""Nodes that die or are cut off in the middle of runs, which go on elsewhere, or on fewer nodes, with the same losses."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from dist_plm.monitor.metrics_file import read_metrics
from tests.slurm.conftest import StartCluster
from tests.slurm.jobs import Job
from tests.slurm.user import SETTINGS, User, num_steps, wait_for
from tools.slurm_cluster.cluster import LocalCluster
from tools.slurm_cluster.settings import Settings

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

STEPS = 30
#: Steps of about a second, so that there is time to lose a node in the middle.
SLOW = (
    "train.global_batch=256",
    "optim.lr=2e-3",
    "train.eval_every=0",
    "train.eval_samples=0",
    "checkpoint.every=2",
    "checkpoint.keep=9",
)
#: Shorter than Slurm takes to miss a node, so that it is the watchdog that ends the ranks.
HANG = ("train.hang_factor=3", "train.hang_minutes=0.2", "train.hang_patience_minutes=2")


@dataclass(frozen=True, slots=True)
class Lost:
    """Four jobs, and what became of each."""

    user: User
    fewer: Job
    cut: Job
    fenced: Job
    stopped: Job
    fenced_on: str


def ranks_of_starts(job: Job) -> list[int]:
    return [json.loads(line)["ranks"] for line in (job.run_dir / "starts.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def lost(start_cluster: StartCluster, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Lost:
    """A node dies under one run; under two others nodes are cut off, under one of them the only one; under the last
    a rank stops."""
    cluster: LocalCluster = start_cluster(7, "netns", Settings(answer_seconds=5))
    user = User(cluster, tmp_path_factory.mktemp("home"), store)
    common = (*SLOW, *HANG, f"train.steps={STEPS}", "cluster.ranks_per_node=1", "cluster.options=['--exclusive']")

    def submit(name: str, *more: str) -> Job:
        _, (job,) = user.submit(*common, f"run.name={name}", *more)
        return job

    fewer = submit("fewer", "nodes=2", "min_nodes=1")
    cut = submit("cut", "nodes=2", "min_nodes=1", "cluster.launcher=srun")
    fenced = submit("fenced", "nodes=1", "train.steps=100000")
    stopped = submit("stopped", "nodes=1", "cluster.ranks_per_node=2")
    jobs = (fewer, cut, fenced, stopped)
    for job in jobs:
        wait_for(lambda job=job: num_steps(job) >= 3, job)
    last = [cluster.run("scontrol", "show", "hostnames", job.facts()["NodeList"]).split()[-1] for job in jobs]
    cluster.kill_node(last[0])
    for node in last[1:3]:
        cluster.cut_off(node)
    latest = max(stopped.run_dir.glob("seen/start_*"), key=lambda path: path.stat().st_mtime)
    seen = json.loads((latest / "rank_00001.json").read_text())
    os.kill(process_here(seen["pid"], stopped.run_dir), signal.SIGSTOP)
    return Lost(user, *jobs, fenced_on=last[2])


@pytest.fixture(scope="module")
def alone(lost: Lost) -> list[float]:
    """Losses of one process that nothing happens to."""
    settings = (*SETTINGS, *SLOW, f"train.steps={STEPS}")
    done = lost.user.start("launch/pretrain.py", f"data.path={lost.user.store}", *settings, "run.name=alone")
    assert done.returncode == 0, done.stderr
    return lost.user.losses("alone")


def test_a_run_that_lost_a_node_goes_on_with_the_same_losses(lost: Lost, alone: list[float]) -> None:
    assert lost.fewer.wait() == "COMPLETED", lost.fewer.log()
    assert int(lost.fewer.facts()["Restarts"]) >= 1
    assert ranks_of_starts(lost.fewer)[0] == 2
    assert len(alone) == STEPS
    assert lost.user.losses("fewer") == pytest.approx(alone, rel=1e-5)


def test_a_run_that_lost_a_cable_ends_by_itself_and_goes_on(lost: Lost, alone: list[float]) -> None:
    assert lost.cut.wait() == "COMPLETED", lost.cut.log()
    assert lost.user.losses("cut") == pytest.approx(alone, rel=1e-5)
    ranks = ranks_of_starts(lost.cut)
    assert len(ranks) >= 2
    assert ranks[0] == 2


def test_what_was_cut_off_stops_writing_when_its_run_goes_on_elsewhere(lost: Lost) -> None:
    job = lost.fenced
    wait_for(lambda: (job.run_dir / "starts.jsonl").read_text().count("\n") == 2, job)
    wait_for(lambda: "was taken over by start 2" in job.log(), job)
    count = num_steps(job)
    wait_for(lambda: num_steps(job) > count + 2, job)
    os.sync()
    recorded = [record["step"] for record in read_metrics(job.run_dir / "metrics.jsonl")]
    assert recorded == list(range(1, recorded[-1] + 1)), "two wrote at once"
    lost.user.cluster.reconnect(lost.fenced_on)
    lost.user.cluster.run("scancel", job.number)


def test_a_rank_that_stops_is_named_and_the_job_goes_on(lost: Lost, alone: list[float]) -> None:
    job = lost.stopped
    assert job.wait() == "COMPLETED", job.log()
    assert "1 of 2 ranks wait, rank 1 said nothing" in job.log()
    # By torchrun, in the same job, or by Slurm: torchrun waits half a minute for what does not end.
    assert len(ranks_of_starts(job)) >= 2
    assert lost.user.losses("stopped") == pytest.approx(alone, rel=1e-5)


def process_here(pid: int, run_dir: Path) -> int:
    """The process here that is `pid` on its node, whose processes are numbered apart."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            numbers = next(line for line in status.read_text().splitlines() if line.startswith("NSpid:")).split()[1:]
            command = (status.parent / "cmdline").read_bytes().decode()
        except (OSError, StopIteration):
            continue
        if numbers[-1] == str(pid) and len(numbers) > 1 and str(run_dir) in command:
            return int(numbers[0])
    raise AssertionError(f"no process is {pid} on a node")
