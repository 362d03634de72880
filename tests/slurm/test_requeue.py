"""What the batch scripts make of the ways in which ranks end. The ranks here only end; everything else is real."""

import itertools
import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.slurm.endings import CASES, STRANGE
from tests.slurm.jobs import Job, submit
from tools.slurm_cluster.cluster import LocalCluster

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module", autouse=True)
def array(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Of three tasks, of which one is started again and one is refused."""
    place = tmp_path_factory.mktemp("array")
    settings = ['variants=("0" "75 0" "2")', "script+=(${variants[SLURM_ARRAY_TASK_ID]})"]
    options = ["--array=0-2", f"--output={place}/%a.log"]
    script = ["tests/slurm/ranks_of_jobs/end_with.py", str(place)]
    return submit(
        cluster,
        "array.sbatch",
        place,
        script,
        ranks_per_node=2,
        options=options,
        settings=settings,
        environment=["SLURM_RESTART_COUNT=1"],
    )


def of_batch_script(job: Job) -> list[str]:
    return ["--batch", "--signal=USR1", job.number]


def of_ranks(job: Job) -> list[str]:
    return ["--signal=USR1", job.number]


def of_both(job: Job) -> list[str]:
    return ["--full", "--signal=USR1", job.number]


@pytest.fixture(scope="module", autouse=True)
def named_slow(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Of a run that names its node slow, by a user who does not want another one either."""
    place = tmp_path_factory.mktemp("slow")
    script = ["tests/slurm/ranks_of_jobs/end_with.py", str(place), "slow", "0"]
    settings, options = ["exclude_slow=1"], [f"--exclude={cluster.nodes[1].name}"]
    return submit(cluster, "pretrain_srun.sbatch", place, script, options=options, settings=settings)


@pytest.fixture(scope="module", autouse=True)
def only_node_named_slow(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Of a run that names its node slow, by a user who wants none of the others."""
    place = tmp_path_factory.mktemp("only_slow")
    script = ["tests/slurm/ranks_of_jobs/end_with.py", str(place), "slow", "0"]
    settings, options = ["exclude_slow=1"], [f"--exclude={','.join(node.name for node in cluster.nodes[1:])}"]
    return submit(cluster, "pretrain_srun.sbatch", place, script, options=options, settings=settings)


@pytest.fixture(scope="module", autouse=True)
def signalled_early(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Signalled while the site's lines run: the script alone, and these too, whose command then fails. Bash hears of it when
    they are over, in which time other tests run."""
    place = tmp_path_factory.mktemp("signalled_early")
    set_up = ["echo setting up", "((restarts > 0)) || sleep 20"]
    jobs = {}
    for receiver in (of_batch_script, of_both):
        run_dir = place / receiver.__name__
        script = ["tests/slurm/ranks_of_jobs/end_with.py", str(run_dir), "0"]
        jobs[receiver] = submit(cluster, "pretrain_srun.sbatch", run_dir, script, settings=set_up)
    for receiver, job in jobs.items():
        job.wait_for_log("setting up")
        cluster.run("scancel", *receiver(job))
    return list(jobs.values())


def test_a_signal_reaches_the_ranks_whoever_gets_it(cluster: LocalCluster, tmp_path: Path) -> None:
    receivers: list[Callable[[Job], list[str]]] = [of_batch_script, of_ranks, of_both]
    jobs = []
    for form, receiver in itertools.product(["pretrain.sbatch", "pretrain_srun.sbatch"], receivers):
        run_dir = tmp_path / form / receiver.__name__
        script = ["tests/slurm/ranks_of_jobs/end_with.py", str(run_dir), "wait", "0"]
        jobs.append((submit(cluster, form, run_dir, script, nodes=1, ranks_per_node=2), receiver))
    for job, receiver in jobs:
        job.wait_for_log("waiting for a signal", times=2)
        cluster.run("scancel", *receiver(job))
    for job, _ in jobs:
        assert job.wait() == "COMPLETED", job.log()
        assert job.log().count("signalled in start 1") == 2, job.log()
        assert "stopped by a signal, or before its time limit, after a complete checkpoint" in job.log()
        assert job.log().splitlines()[-1].endswith("finished")


def test_a_signal_before_the_ranks_is_no_end(signalled_early: list[Job]) -> None:
    for job in signalled_early:
        assert job.wait() == "COMPLETED", job.log()
        assert "signalled before the ranks were started" in job.log()
        assert job.facts()["Restarts"] == "1"


@pytest.mark.parametrize("name", CASES)
def test_ends_and_starts_again(endings: dict[str, Job], name: str) -> None:
    _, _, state, exit_code, starts, words = CASES[name]
    job = endings[name]
    assert (job.wait(), job.facts()["ExitCode"]) == (state, exit_code), job.log()
    assert sum(": start " in line for line in job.log().splitlines()) == starts, job.log()
    assert words in job.log().splitlines()[-1]


def test_a_job_knows_itself_and_its_end_whatever_shell_it_was_submitted_from(endings: dict[str, Job]) -> None:
    job = endings[STRANGE]
    job.wait()
    starts = re.findall(rf"job {job.number}: start (\d) on 2 of \S+ until (\S+),", job.log())
    assert [start for start, _ in starts] == ["1", "2"], job.log()
    assert datetime.fromisoformat(starts[-1][1]) == datetime.fromisoformat(job.facts()["StartTime"]) + timedelta(days=1)


def test_other_nodes_are_asked_for_than_slow_ones(cluster: LocalCluster, named_slow: Job) -> None:
    assert named_slow.wait() == "COMPLETED", named_slow.log()
    first, second = re.findall(r"start \d on 1 of (\S+) until", named_slow.log())
    assert first != second
    assert cluster.nodes[1].name not in (first, second)
    assert f"asks for other nodes than {cluster.nodes[1].name},{first}" in named_slow.log()


def test_a_slow_node_is_taken_again_where_there_are_no_others(cluster: LocalCluster, only_node_named_slow: Job) -> None:
    assert only_node_named_slow.wait() == "COMPLETED", only_node_named_slow.log()
    assert re.findall(r"start \d on 1 of (\S+) until", only_node_named_slow.log()) == [cluster.nodes[0].name] * 2
    assert "Slurm has not enough other nodes than" in only_node_named_slow.log()


def test_a_cancelled_job_stays_cancelled(cluster: LocalCluster, tmp_path: Path) -> None:
    script = ["tests/slurm/ranks_of_jobs/end_with.py", str(tmp_path), "wait"]
    job = submit(cluster, "pretrain_srun.sbatch", tmp_path, script, nodes=1)
    job.wait_for_log("waiting for a signal")
    cluster.run("scancel", job.number)
    assert job.wait() == "CANCELLED"
    time.sleep(2)
    assert job.facts()["JobState"] == "CANCELLED"
    assert "start 2" not in job.log()


def test_tasks_of_an_array_start_again_one_by_one(cluster: LocalCluster, array: Job) -> None:
    deadline = time.monotonic() + 600
    listing = ("squeue", "--noheader", "--array", "--states=all", f"--jobs={array.number}", "--format=%K %T")
    expected = {"0 COMPLETED", "1 COMPLETED", "2 FAILED"}
    while set(cluster.run(*listing).splitlines()) != expected:
        assert time.monotonic() < deadline, cluster.run(*listing)
        time.sleep(0.3)
    logs = [(array.run_dir / f"{task}.log").read_text() for task in range(3)]
    assert [log.count(f"job {array.number}_{task}: start ") for task, log in enumerate(logs)] == [1, 2, 1]
    assert [len(re.findall(r": start \d on 1 of \S+ until \d{4}-", log)) for log in logs] == [1, 2, 1]
