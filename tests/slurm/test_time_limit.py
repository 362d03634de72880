"""Real time limits, which take minutes: their jobs wait while the tests of other files run."""

import os
import signal
import time
from datetime import datetime

import pytest

from dist_plm.monitor.metrics_file import read_metrics
from tests.slurm.jobs import Job, submit
from tests.slurm.processes import ranks_of
from tests.slurm.user import LONG, SETTINGS, User, wait_for_steps

pytestmark = pytest.mark.slurm


def test_signal_before_the_time_limit(limited: Job) -> None:
    assert limited.wait() == "COMPLETED", limited.log()
    assert limited.log().count("signalled in start 1") == 1


@pytest.mark.slow
def test_runs_end_before_their_time_limit_and_go_on_with_the_same_losses(user: User, alone_long: list[float]) -> None:
    """One is signalled by Slurm; the other is not, and knows its end. Their ranks are held until it is time."""
    overrides = [*LONG, "cluster.ranks_per_node=1", "cluster.launcher=srun"]
    _, (signalled,) = user.submit(
        *overrides, "run.name=signalled", "nodes=2", "cluster.time='2'", "cluster.signal_seconds=30"
    )
    run_dir = user.home / "knowing"
    script = ["launch/pretrain.py", f"run.dir={run_dir}", f"data.path={user.store}", *SETTINGS, *LONG]
    knowing = submit(user.cluster, "pretrain_srun.sbatch", run_dir, script, options=["--time=1"], max_restarts=9)
    held: dict[Job, list[int]] = {}
    for job in (signalled, knowing):
        wait_for_steps(job, 1)
        held[job] = ranks_of(job.run_dir)
        assert len(held[job]) == (2 if job is signalled else 1)
        for pid in held[job]:
            os.kill(pid, signal.SIGSTOP)

    end = datetime.fromisoformat(knowing.facts()["EndTime"]).timestamp()
    time.sleep(max(0.0, end - 12 - time.time()))
    os.kill(held[knowing][0], signal.SIGCONT)
    # Beside USR1 Slurm sends CONT: the other goes on by itself.
    for job in (signalled, knowing):
        assert job.wait() == "COMPLETED", job.log()
        assert int(job.facts()["Restarts"]) >= 1
        losses = [record["loss"] for record in read_metrics(job.run_dir / "metrics.jsonl")]
        assert losses == pytest.approx(alone_long, rel=2e-5)
    assert "(SIGUSR1), all of it saved" in signalled.log()
    assert "or its job's end, " in knowing.log()
