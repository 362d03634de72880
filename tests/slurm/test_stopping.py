"""Runs that are stopped in every way that Slurm knows, and end with the losses of one that nothing happened to."""

import time
from collections.abc import Callable

import pytest

from dist_plm.train.stopping import SAME_SIGNAL_SECONDS
from tests.slurm.jobs import Job
from tests.slurm.user import LONG, User, wait_for, wait_for_steps
from tools.slurm_cluster.settings import URGENT

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def num_starts(job: Job) -> int:
    path = job.run_dir / "starts.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def test_a_run_stopped_in_every_way_ends_with_the_same_losses(user: User, alone_long: list[float]) -> None:
    cluster = user.cluster
    _, (job,) = user.submit(
        *LONG, "run.name=story", "nodes=2", "cluster.ranks_per_node=2", "parallel.tensor=2", "cluster.launcher=srun",
        "cluster.max_restarts=8",
    )  # fmt: skip

    def two_signals() -> None:
        cluster.run("scancel", "--signal=USR1", job.number)
        cluster.run("scancel", "--signal=USR1", job.number)

    def two_signals_apart() -> None:
        cluster.run("scancel", "--signal=USR1", job.number)
        time.sleep(SAME_SIGNAL_SECONDS + 0.2)
        cluster.run("scancel", "--signal=USR1", job.number, check=False)

    def preempt() -> None:
        urgent = ("sbatch", "--parsable", f"--partition={URGENT}", "--nodes=4", "--exclusive", "--output=/dev/null")
        cluster.run(*urgent, "--wrap=sleep 1")

    ways: list[Callable[[], object]] = [
        lambda: cluster.run("scontrol", "requeue", job.number),
        lambda: cluster.run("scancel", "--signal=TERM", job.number),
        two_signals,
        two_signals_apart,
        preempt,
    ]
    stopped_at = [0]
    for start, stop in enumerate(ways, start=1):
        wait_for(lambda start=start: num_starts(job) == start, job)
        before = stopped_at[-1]
        wait_for_steps(job, before + 1)
        stop()
        wait_for(lambda start=start: num_starts(job) > start, job)
        latest = job.run_dir / "checkpoints" / "latest"
        stopped_at.append(int(latest.read_text().strip().removeprefix("step_")) if latest.exists() else 0)
    assert job.wait() == "COMPLETED", job.log()
    # All but the second of two signals left time to save.
    assert stopped_at == sorted(stopped_at)
    assert len(set(stopped_at)) >= len(stopped_at) - 1, stopped_at
    assert int(job.facts()["Restarts"]) == len(ways)

    assert user.losses("story") == pytest.approx(alone_long, rel=2e-5)
