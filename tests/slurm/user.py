"""A user of a Slurm cluster, who types commands into a shell of a login node."""

import contextlib
import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_plm.monitor.metrics_file import read_metrics
from tests.slurm.jobs import REPOSITORY, Job
from tests.train.conftest import TINY
from tools.slurm_cluster.cluster import LocalCluster

STEPS = 8
#: Steps take some tenths of a second: time to send a signal between them.
SETTINGS = (*TINY, f"train.steps={STEPS}", "train.global_batch=128", "train.eval_every=4", "data.loader_workers=0")
#: Besides: steps of about a second.
LONG = (
    "train.global_batch=512",
    "train.steps=12",
    "optim.lr=2e-3",
    "train.eval_every=0",
    "train.eval_samples=0",
    "checkpoint.every=100",
)


@dataclass(frozen=True, slots=True)
class User:
    """In a directory of their own, with one store."""

    cluster: LocalCluster
    home: Path
    store: Path

    def submit(self, *overrides: str, code: int = 0) -> tuple[str, list[Job]]:
        """What launch/submit.py printed, and the jobs that it submitted, of a pretraining run on the store."""
        return self.submit_words(self._given(overrides), code)

    def submit_words(self, words: Sequence[str], code: int = 0) -> tuple[str, list[Job]]:
        """The same of any words. In this process, which has imported it all."""
        from dist_plm.cli.commands.submit import execute

        out, err = io.StringIO(), io.StringIO()
        with self._at_home(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = execute(words)
        assert ended == code, out.getvalue() + err.getvalue()
        return out.getvalue() + err.getvalue(), self._jobs(out.getvalue())

    def start(self, script: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, str(REPOSITORY / script), *overrides]
        return subprocess.run(
            argv, cwd=self.home, env=self._env, capture_output=True, text=True, timeout=1800, check=False
        )

    @contextlib.contextmanager
    def watch(self, *overrides: str) -> Iterator[tuple[Path, Job]]:
        """launch/submit.py as a program that follows the job: the file that it prints into, and the job. It ends in the end."""
        printed = self.home / "watched.txt"
        argv = [sys.executable, str(REPOSITORY / "launch/submit.py"), *self._given((*overrides, "submit.watch=true"))]
        with printed.open("w") as output:
            process = subprocess.Popen(argv, cwd=self.home, env=self._env, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 300
            while "stop  " not in printed.read_text():
                assert process.poll() is None, printed.read_text()
                assert time.monotonic() < deadline, printed.read_text()
                time.sleep(0.1)
            (job,) = self._jobs(printed.read_text())
            yield printed, job
            assert process.wait(300) == 0, printed.read_text()
        finally:
            process.kill()

    def queue(self) -> list[str]:
        return self.cluster.run("squeue", "--noheader", "--format=%j").split()

    def losses(self, name: str) -> list[float]:
        return [record["loss"] for record in read_metrics(self.home / "runs" / name / "metrics.jsonl")]

    @property
    def _env(self) -> dict[str, str]:
        # PYTHONPATH, as another copy of the package may be installed.
        return self.cluster.env | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

    def _given(self, overrides: tuple[str, ...]) -> list[str]:
        return [f"data.path={self.store}", "cluster=slurm_local", *SETTINGS, *overrides]

    def _jobs(self, printed: str) -> list[Job]:
        numbers = re.findall(r"^submitted job (\d[\d_]*)", printed, re.MULTILINE)
        directories = re.findall(r"^  script +(.+)/slurm/run\.sbatch$", printed, re.MULTILINE)
        return [Job(self.cluster, n, Path(d), f"log/slurm-{n}.log") for n, d in zip(numbers, directories, strict=True)]

    @contextlib.contextmanager
    def _at_home(self) -> Iterator[None]:
        before, env, mine = Path.cwd(), dict(os.environ), self._env
        os.chdir(self.home)
        os.environ.clear()
        os.environ.update(mine)
        try:
            yield
        finally:
            os.chdir(before)
            os.environ.clear()
            os.environ.update(env)


def num_steps(job: Job) -> int:
    """Steps in the run's record."""
    path = job.run_dir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for_steps(job: Job, count: int) -> None:
    wait_for(lambda: num_steps(job) >= count, job)


def wait_for(condition: Callable[[], bool], job: Job, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert "not started again" not in job.log(), job.log()
        assert time.monotonic() < deadline, f"{job.facts()}\n{job.log()}"
        time.sleep(0.05)
