"""Slurm's commands, and what they answer."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_plm.core.errors import UserError

#: States of a job that will not change any more: squeue(1), JOB STATE CODES.
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
ENDED |= {"REVOKED", "TIMEOUT"}
#: Variables that lead Slurm's commands to a cluster. All others named SLURM_… tell of a job, where one is.
_OF_CLUSTERS = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT")
#: Variables for options of sbatch that are not named after these: sbatch(1), INPUT ENVIRONMENT VARIABLES.
_NAMED_OTHERWISE = {
    "time": ("SBATCH_TIMELIMIT",),
    "requeue": ("SBATCH_REQUEUE", "SBATCH_NO_REQUEUE"),
    "mem": ("SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU"),
    "gpus-per-node": ("SBATCH_GPUS_PER_NODE", "SBATCH_GPUS"),
}


class SlurmError(UserError):
    """Slurm cannot be asked, or refused what it was asked."""


@dataclass(frozen=True, slots=True)
class JobState:
    """Holds what Slurm tells of a job.

    Attributes:
        name: PENDING, RUNNING, …; UNKNOWN of a job that Slurm has forgotten, some minutes after its end.
        where: its nodes, or why it waits.
        restarts: how often it was started again.
        exit_code: of the batch script; None while it has none.
    """

    name: str
    where: str = ""
    restarts: int = 0
    exit_code: int | None = None

    @property
    def ended(self) -> bool:
        return self.name in ENDED or self.name == "UNKNOWN"


@dataclass(frozen=True, slots=True)
class SlurmPartition:
    """Holds what a partition can give at most; `max_time` as Slurm writes it."""

    name: str
    max_nodes: int
    max_time: str


def partition(name: str | None) -> SlurmPartition | None:
    """The partition of a name, or the default one; None where Slurm does not say: it will when it gets the job.

    Raises:
        SlurmError: Slurm cannot be asked.
    """
    for facts in map(_facts, _run(["scontrol", "--oneliner", "show", "partition"]).splitlines()):
        if facts.get("PartitionName") == name or (name is None and facts.get("Default") == "YES"):
            limits = [facts.get("MaxNodes", ""), facts.get("TotalNodes", "")]
            most = min((int(limit) for limit in limits if limit.isdecimal()), default=0)
            return SlurmPartition(facts["PartitionName"], most, facts.get("MaxTime", "UNLIMITED")) if most else None
    return None


def submit(script: Path) -> str:
    """Queues a batch script and returns the job's number.

    Raises:
        SlurmError: refused.
    """
    env = as_scripted(script.read_text(encoding="utf-8"), without_job(os.environ))
    return _run(["sbatch", "--parsable", str(script)], env).strip().partition(";")[0]


def without_job(env: Mapping[str, str]) -> dict[str, str]:
    """Leaves out what Slurm tells the job in which this runs: sbatch would hand it on, and srun there obey it."""
    told = ("SLURM_",) if "SLURM_JOB_ID" in env else ("SLURM_ARRAY_", "SLURM_RESTART_COUNT")
    return {name: text for name, text in env.items() if not name.startswith(told) or name in _OF_CLUSTERS}


def as_scripted(script: str, env: Mapping[str, str]) -> dict[str, str]:
    """Leaves out variables for options that the script gives: sbatch heeds them more than the script. Of one job none makes an
    array, whose tasks would write into one directory."""
    overruled = {"SBATCH_ARRAY_INX"}
    for option in re.findall(r"(?m)^#SBATCH --([a-z-]+)", script):
        overruled.update(_NAMED_OTHERWISE.get(option, (f"SBATCH_{option.replace('-', '_').upper()}",)))
    return {name: text for name, text in env.items() if name not in overruled}


def job_state(number: str) -> JobState:
    """Asks Slurm for the state of a job that was submitted on this cluster.

    Raises:
        SlurmError: Slurm cannot be asked.
    """
    try:
        text = _run(["scontrol", "--oneliner", "show", "job", number])
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return JobState("UNKNOWN")
        raise
    facts = _facts(text)
    name = facts["JobState"]
    nodes = facts.get("NodeList", "(null)")
    where = f"({facts['Reason']})" if name == "PENDING" or nodes == "(null)" else nodes
    code, _, signal = facts.get("ExitCode", "0:0").partition(":")
    exit_code = 128 + int(signal) if int(signal) else int(code)
    return JobState(name, where, int(facts.get("Restarts", "0")), exit_code if name in ENDED else None)


def _facts(line: str) -> dict[str, str]:
    """Reads the facts of a line of scontrol: "JobId=4 JobState=RUNNING …"."""
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def _run(argv: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    except FileNotFoundError as error:
        raise SlurmError(
            f"{argv[0]} is not installed here: submit from a login node of a Slurm cluster, or see the batch script "
            "with submit.dry_run=true"
        ) from error
    if done.returncode != 0:
        told = (done.stderr + done.stdout).strip() or f"exit code {done.returncode}"
        reason = "; ".join(line.removeprefix(f"{argv[0]}: ").removeprefix("error: ") for line in told.splitlines())
        raise SlurmError(f"{argv[0]} refused: {reason}")
    return done.stdout
