"""What the batch scripts make of the ways in which ranks end. The ranks here only end; everything else is real."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.local.cluster import LocalCluster
from tests.slurm.jobs import Job, submit

pytestmark = pytest.mark.slurm

#: How the ranks end at each start; restarts allowed; the job's last state, its exit code and starts; its last words.
CASES = {
    "finished": (["0"], 3, "COMPLETED", "0:0", 1, "finished"),
    "refused": (["2"], 3, "FAILED", "2:0", 1, "refused, see above; starting it again would not help"),
    "stopped, then finished": (["75", "0"], 3, "COMPLETED", "0:0", 2, "finished"),
    "stopped too often": (["75"], 1, "FAILED", "1:0", 2, "given up after 1 restarts"),
    "crashed without progress": (["1"], 3, "FAILED", "1:0", 1, "not started again, as it made no checkpoint"),
    "crashed with progress": (["save", "1"], 3, "FAILED", "1:0", 2, "not started again, as it made no checkpoint"),
}


@pytest.fixture(scope="module", autouse=True)
def limited(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that Slurm signals 30 to 90 seconds before its limit of 2 minutes, while the other tests run."""
    run_dir = tmp_path_factory.mktemp("limited")
    script = ["tests/slurm/ranks_of_jobs/end_with.py", str(run_dir), "wait", "0"]
    return submit(cluster, "pretrain_srun.sbatch", run_dir, script, options=["--time=2", "--signal=USR1@30"])


@pytest.fixture(scope="module")
def jobs(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """All cases, queued at once: they spend their time waiting for Slurm to start them again."""
    ended = {}
    for name, (ways, max_restarts, *_) in CASES.items():
        run_dir = tmp_path_factory.mktemp(name.replace(" ", "_"))
        script = ["tests/slurm/ranks_of_jobs/end_with.py", str(run_dir), *ways]
        ended[name] = submit(
            cluster, "pretrain_srun.sbatch", run_dir, script, nodes=2, ranks_per_node=2, max_restarts=max_restarts
        )
    return ended


@pytest.mark.parametrize("name", CASES)
def test_ends_and_starts_again(jobs: dict[str, Job], name: str) -> None:
    _, _, state, exit_code, starts, words = CASES[name]
    job = jobs[name]
    assert (job.wait(), job.facts()["ExitCode"]) == (state, exit_code), job.log()
    assert sum(": start " in line for line in job.log().splitlines()) == starts, job.log()
    assert words in job.log().splitlines()[-1]


def of_batch_script(job: Job) -> list[str]:
    return ["--batch", "--signal=USR1", job.number]


def of_ranks(job: Job) -> list[str]:
    return ["--signal=USR1", job.number]


def of_both(job: Job) -> list[str]:
    return ["--full", "--signal=USR1", job.number]


@pytest.mark.parametrize("form", ["pretrain.sbatch", "pretrain_srun.sbatch"])
def test_a_signal_reaches_the_ranks_whoever_gets_it(cluster: LocalCluster, tmp_path: Path, form: str) -> None:
    receivers: list[Callable[[Job], list[str]]] = [of_batch_script, of_ranks, of_both]
    jobs = []
    for receiver in receivers:
        run_dir = tmp_path / receiver.__name__
        script = ["tests/slurm/ranks_of_jobs/end_with.py", str(run_dir), "wait", "0"]
        jobs.append(submit(cluster, form, run_dir, script, nodes=1, ranks_per_node=2))
    for job, receiver in zip(jobs, receivers, strict=True):
        job.wait_for_log("waiting for a signal", times=2)
        cluster.run("scancel", *receiver(job))
    for job in jobs:
        assert job.wait() == "COMPLETED", job.log()
        assert job.log().count("signalled in start 1") == 2, job.log()
        assert "stopped by a signal after a complete checkpoint" in job.log()
        assert job.log().splitlines()[-1].endswith("finished")


def test_a_cancelled_job_stays_cancelled(cluster: LocalCluster, tmp_path: Path) -> None:
    script = ["tests/slurm/ranks_of_jobs/end_with.py", str(tmp_path), "wait"]
    job = submit(cluster, "pretrain_srun.sbatch", tmp_path, script, nodes=1)
    job.wait_for_log("waiting for a signal")
    cluster.run("scancel", job.number)
    assert job.wait() == "CANCELLED"
    time.sleep(2)
    assert job.facts()["JobState"] == "CANCELLED"
    assert "start 2" not in job.log()


def test_signal_before_the_time_limit(limited: Job) -> None:
    assert limited.wait() == "COMPLETED", limited.log()
    assert limited.log().count("signalled in start 1") == 1


def test_tasks_of_an_array_start_again_one_by_one(cluster: LocalCluster, tmp_path: Path) -> None:
    settings = ['variants=("0" "75 0" "2")', "script+=(${variants[SLURM_ARRAY_TASK_ID]})"]
    options = ["--array=0-2", f"--output={tmp_path}/%a.log"]
    script = ["tests/slurm/ranks_of_jobs/end_with.py", str(tmp_path)]
    array = submit(cluster, "array.sbatch", tmp_path, script, ranks_per_node=2, options=options, settings=settings)
    deadline = time.monotonic() + 120
    listing = ("squeue", "--noheader", "--array", "--states=all", f"--jobs={array.number}", "--format=%K %T")
    expected = {"0 COMPLETED", "1 COMPLETED", "2 FAILED"}
    while set(cluster.run(*listing).splitlines()) != expected:
        assert time.monotonic() < deadline, cluster.run(*listing)
        time.sleep(0.3)
    starts = [(tmp_path / f"{task}.log").read_text().count(": start ") for task in range(3)]
    assert starts == [1, 2, 1]
