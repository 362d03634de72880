"""Batch scripts from the templates of slurm/, filled in, submitted and followed to their end."""

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_plm.cluster.script import render
from tools.slurm_cluster.cluster import LocalCluster

REPOSITORY = Path(__file__).resolve().parents[2]
#: States in which a job still has something to come.
UNFINISHED = (
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING"),
    *("REQUEUED", "REQUEUE_FED", "SUSPENDED", "STOPPED"),
)


@dataclass(frozen=True, slots=True)
class Job:
    cluster: LocalCluster
    number: str
    run_dir: Path
    log_name: str = "job.log"

    def facts(self) -> dict[str, str]:
        """What Slurm tells of it: JobState, ExitCode, Restarts …"""
        words = self.cluster.run("scontrol", "--oneliner", "show", "job", self.number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def log(self) -> str:
        path = self.run_dir / self.log_name
        return path.read_text() if path.exists() else ""

    def wait_for_log(self, text: str, times: int = 1, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while self.log().count(text) < times:
            assert time.monotonic() < deadline, f"{text!r} is not in the log: {self.facts()}\n{self.log()}"
            time.sleep(0.1)

    def wait(self, seconds: float = 600) -> str:
        """The state in which it ended."""
        deadline = time.monotonic() + seconds
        while (state := self.facts()["JobState"]) in UNFINISHED:
            assert time.monotonic() < deadline, f"job {self.number} is {state}\n{self.log()}\n{self.cluster.logs()}"
            time.sleep(0.2)
        return state


def submit(
    cluster: LocalCluster,
    template: str,
    run_dir: Path,
    script: Sequence[str],
    *,
    nodes: int = 1,
    ranks_per_node: int = 1,
    max_restarts: int = 3,
    options: Sequence[str] = (),
    settings: Sequence[str] = (),
    environment: Sequence[str] = (),
) -> Job:
    """Submits slurm/`template` with its settings filled in, `settings` after them; the log is RUN_DIR/job.log. `environment`,
    NAME=VALUE, is added to that of the shell."""
    run_dir.mkdir(parents=True, exist_ok=True)
    tasks = ranks_per_node if template in ("pretrain_srun.sbatch", "evaluate.sbatch") else 1
    text = render(
        (REPOSITORY / "slurm" / template).read_text(),
        head="A test.",
        directives=[
            f"--nodes={nodes}",
            f"--ntasks-per-node={tasks}",
            f"--output={run_dir}/job.log",
            f"--chdir={REPOSITORY}",
            "--open-mode=append",
            "--requeue",
            *options,
        ],
        settings=[
            "source slurm/common.sh",
            f"run_dir={shlex.quote(str(run_dir))}",
            f"max_restarts={max_restarts}",
            "restarts_in_job=0",
            f"ranks_per_node={ranks_per_node}",
            f"python={shlex.quote(sys.executable)}",
            f"script=({shlex.join(script)})",
            "container=()",
            *settings,
            f"export OMP_NUM_THREADS=1 PYTHONPATH={shlex.quote(str(REPOSITORY))}",
        ],
    )
    path = run_dir / template
    path.write_text(text)
    return Job(cluster, cluster.run("env", *environment, "sbatch", "--parsable", str(path)).strip(), run_dir)
