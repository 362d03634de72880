"""launch/submit.py as a user runs it, on a real Slurm: a tiny GPT trained over nodes."""

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from dist_plm.observe.metrics import read_metrics
from slurm.local.cluster import LocalCluster
from tests.slurm.jobs import REPOSITORY, Job, submit
from tests.train.conftest import TINY

pytestmark = pytest.mark.slurm

STEPS = 6
SETTINGS = (*TINY, f"train.steps={STEPS}", "train.eval_every=3", "data.loader_workers=0")


@dataclass(frozen=True, slots=True)
class User:
    """Types commands into a shell of a login node, in a directory of their own."""

    cluster: LocalCluster
    home: Path
    store: Path

    def __call__(self, *overrides: str, watch: bool = False, code: int = 0) -> tuple[str, list[Job]]:
        """What launch/submit.py printed, and the jobs that it submitted."""
        where = (f"data.path={self.store}", "cluster=slurm_local", *SETTINGS, *(["submit.watch=true"] if watch else []))
        done = self.start("launch/submit.py", *where, *overrides)
        assert done.returncode == code, done.stdout + done.stderr
        numbers = re.findall(r"^submitted job (\d+)", done.stdout, re.MULTILINE)
        directories = re.findall(r"^  run +(.+)$", done.stdout, re.MULTILINE)
        jobs = [Job(self.cluster, n, Path(d), f"log/slurm-{n}.log") for n, d in zip(numbers, directories, strict=True)]
        return done.stdout + done.stderr, jobs

    def start(self, script: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        env = self.cluster.env | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        argv = [sys.executable, str(REPOSITORY / script), *overrides]
        return subprocess.run(argv, cwd=self.home, env=env, capture_output=True, text=True, timeout=600, check=False)

    def queue(self) -> list[str]:
        return self.cluster.run("squeue", "--noheader", "--format=%j").split()

    def losses(self, name: str) -> list[float]:
        return [record["loss"] for record in read_metrics(self.home / "runs" / name / "metrics.jsonl")]


@pytest.fixture(scope="module")
def store(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What slurm/prepare.sbatch made."""
    place = tmp_path_factory.mktemp("corpus")
    sources = "[{path: tests/data/texts/*.txt, max_chars: 512}, {path: tests/data/texts/*.jsonl}]"
    script = ["launch/prepare_data.py", f"data.sources={sources}", f"data.out={place}/store"]
    script += ["tokenizer.vocab_size=512", "data.split=[0.8,0.1,0.1]"]
    job = submit(cluster, "prepare.sbatch", place, script, options=["--cpus-per-task=2"])
    assert job.wait() == "COMPLETED", job.log()
    return place / "store"


@pytest.fixture(scope="module")
def user(cluster: LocalCluster, store: Path, tmp_path_factory: pytest.TempPathFactory) -> User:
    return User(cluster, tmp_path_factory.mktemp("home"), store)


@pytest.fixture(scope="module")
def alone(user: User) -> list[float]:
    """Losses of one process without Slurm."""
    done = user.start("launch/pretrain.py", f"data.path={user.store}", *SETTINGS, "run.name=alone")
    assert done.returncode == 0, done.stderr
    return user.losses("alone")


def test_four_nodes_by_srun_train_like_one_process(user: User, alone: list[float]) -> None:
    grid = ["nodes=4", "cluster.ranks_per_node=1", "parallel.tensor=2", "cluster.launcher=srun"]
    printed, (job,) = user(*grid, "run.name=by_srun")
    assert job.wait(300) == "COMPLETED", job.log()
    assert len(alone) == STEPS
    assert user.losses("by_srun") == pytest.approx(alone, rel=2e-5)
    assert (user.home / "runs" / "by_srun" / "run.yaml").exists()
    assert f"scancel {job.number}" in printed
    nodes = [(job.run_dir / "log" / f"rank_{rank:05d}.log").read_text() for rank in range(4)]
    assert all(f"node{rank + 1} rank {rank} " in text for rank, text in enumerate(nodes) if text)


def test_two_nodes_by_torchrun_stop_and_continue_when_submitted_again(user: User, alone: list[float]) -> None:
    grid = ["nodes=2", "cluster.ranks_per_node=2", "parallel.tensor=2", "run.name=by_torchrun"]
    _, (first,) = user(*grid, "train.stop_at=4")
    refused, _ = user(*grid, code=2)
    assert f"belongs to job {first.number}" in refused
    assert first.wait(300) == "COMPLETED", first.log()
    assert len(user.losses("by_torchrun")) == 4

    printed, (again,) = user(*grid, watch=True)
    assert "changed since it was started: train.stop_at: 4 -> null" in printed
    assert "continues from step_00000004" in printed
    watched = [line.split("  ")[1] for line in printed.splitlines() if re.match(r"\d\d:\d\d:\d\d  ", line)]
    assert [line for line in watched if line.startswith("step")] == ["step 5", "step 6"], printed
    assert watched[-1] == "COMPLETED node[1-2], exit code 0"
    assert again.facts()["JobState"] == "COMPLETED"
    assert user.losses("by_torchrun") == pytest.approx(alone, rel=2e-5)


def test_a_signalled_run_starts_again_and_ends_with_the_same_losses(user: User) -> None:
    slow = ["train.steps=8", "train.global_batch=256", "train.eval_every=0", "checkpoint.every=100"]
    done = user.start("launch/pretrain.py", f"data.path={user.store}", *SETTINGS, *slow, "run.name=slow_alone")
    assert done.returncode == 0, done.stderr
    # The signal reaches the processes that read samples too.
    grid = ["nodes=2", "cluster.ranks_per_node=1", "data.loader_workers=1"]
    _, (job,) = user(*slow, *grid, "run.name=signalled")
    metrics = job.run_dir / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or not metrics.read_text():
        assert time.monotonic() < deadline, job.log()
        time.sleep(0.05)
    user.cluster.run("scancel", "--signal=USR1", job.number)
    assert job.wait(300) == "COMPLETED", job.log()
    assert job.facts()["Restarts"] == "1"
    assert "stopped by a signal after a complete checkpoint" in job.log()
    assert job.log().count(": start ") == 2
    assert user.losses("signalled") == pytest.approx(user.losses("slow_alone"), rel=2e-5)


def test_a_sweep_submits_a_job_for_each_run(user: User) -> None:
    _, jobs = user("--multirun", "optim.lr=1e-3,2e-3", "run.name=sweep", "cluster.options=['--hold']")
    names = ["sweep-lr=0.001", "sweep-lr=0.002"]
    assert user.queue() == names or user.queue() == names[::-1]
    assert [job.run_dir.name for job in jobs] == names
    for job in jobs:
        assert job.facts()["JobState"] == "PENDING"
        user.cluster.run("scancel", job.number)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["parallel.tensor=3"], "model.heads = 2 is not a multiple of parallel.tensor = 3"),
        (["optim.lrr=1"], "did you mean optim.lr?"),
        (["data.path=nowhere"], "data.path = 'nowhere'"),
        (["cluster.partition=other"], "sbatch refused: invalid partition specified: other"),
        (["nodes=64"], "nodes = 64 exceeds what partition test gives a job, 4"),
        (["cluster.time=1-12"], "cluster.time = '1-12' exceeds the limit of partition test, 1-00:00:00"),
        (["cluster.gpus_per_node=5"], "sbatch refused: Batch job submission failed: Requested node"),
    ],
)
def test_a_wrong_configuration_never_reaches_the_queue(user: User, overrides: list[str], words: str) -> None:
    small = ["train.global_batch=256", "train.micro_batch=1"]
    printed, jobs = user(*small, *overrides, "run.name=wrong", code=2)
    assert words in printed
    assert "Traceback" not in printed
    assert (jobs, user.queue()) == ([], [])


def test_names_with_blanks(user: User) -> None:
    _, (job,) = user("run.name='two words 100%'", "cluster.setup=['echo not trained; exit 0']")
    assert job.run_dir == user.home / "runs" / "two words 100%"
    assert job.wait() == "COMPLETED"
    assert job.log() == "not trained\n"
