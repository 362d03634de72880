"""From checked configurations to jobs in the queue."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

from dist_plm.cluster import slurm
from dist_plm.cluster.check import AnySubmission, problems_on, run_of
from dist_plm.cluster.job import JobDirectories, batch_script
from dist_plm.cluster.submission.asked_of_slurm import limit_seconds, node_counts
from dist_plm.config import runfile
from dist_plm.core.errors import ConfigError
from dist_plm.core.files import make_directory
from dist_plm.spec.rules.checkpoint import shared_directories
from dist_plm.spec.schema import JobConfig, TrainingConfig
from dist_plm.spec.schema_run import ClusterConfig


class QueuedJob(Protocol):
    """Holds what is submitted, whatever it starts."""

    #: Started again it goes on from a checkpoint; else it begins anew.
    goes_on: ClassVar[bool]

    @property
    def job(self) -> JobConfig:
        """Tells how many nodes it gets."""
        ...

    @property
    def cluster(self) -> ClusterConfig: ...

    @property
    def place(self) -> JobDirectories: ...

    @property
    def script(self) -> str:
        """Gives the text of the batch script."""
        ...

    @property
    def settings_files(self) -> Mapping[Path, Any]:
        """Gives the configurations that lie beside the script, each by the file that holds it."""
        ...


@dataclass(frozen=True, slots=True)
class Submission:
    """A run to submit.

    Args:
        given: as the user wrote it: what follows from the number of nodes is still None.
        config: the same checked and complete.
        overrides: that it was made from.
    """

    goes_on: ClassVar[bool] = True

    given: AnySubmission
    config: AnySubmission
    overrides: tuple[str, ...]

    @property
    def job(self) -> JobConfig:
        return self.config

    @property
    def cluster(self) -> ClusterConfig:
        return self.config.cluster

    @property
    def place(self) -> JobDirectories:
        assert self.config.run.dir is not None, "run.dir is None: check the configuration first"
        return JobDirectories(working=Path.cwd(), run=Path.cwd() / self.config.run.dir)

    @property
    def script(self) -> str:
        return batch_script(
            self.config, self.overrides, self.place, node_counts(self.given, partial(problems_on, self.given))
        )

    @property
    def frozen(self) -> TrainingConfig:
        """Gives what each start of the job trains: on how many nodes, each start finds out."""
        run = run_of(self.given)
        return replace(run, run=replace(run.run, dir=str(self.place.run)))

    @property
    def settings_files(self) -> Mapping[Path, Any]:
        return {self.place.run / "run.yaml": run_of(self.config), self.place.frozen: self.frozen}


def refuse_taken_directories(submissions: Sequence[Submission]) -> None:
    """Two jobs that write into one directory would destroy each other's run.

    Raises:
        ConfigError: two of `submissions` share one, or a job that still runs or waits has it.
    """
    configs = [submission.config for submission in submissions]
    problems = list(shared_directories((config.run, config.checkpoint) for config in configs))
    for submission in submissions:
        problems += busy_problems(submission.place, "give this run another run.name")
    if problems:
        raise ConfigError(problems)


def busy_problems(place: JobDirectories, remedy: str) -> Iterator[str]:
    """Yields a sentence for each job that still runs or waits and writes into the directory.

    Args:
        remedy: what one may do beside cancelling it.
    """
    for number in _jobs_of(place):
        state = slurm.job_state(number)
        if not state.ended:
            yield (
                f"{place.setting} = {str(place.run)!r} belongs to job {number}, which is {state.name} {state.where}: "
                f"cancel it with scancel {number}, or {remedy}"
            )


def refuse_what_cannot_start(jobs: Sequence[QueuedJob]) -> None:
    """Slurm refuses most of what a partition cannot give, yet lets too many nodes or too long a time wait for ever.

    Raises:
        ConfigError: with a sentence for each limit that is exceeded.
    """
    problems: dict[str, None] = {}
    for job in jobs:
        cluster, nodes = job.cluster, job.job.nodes
        partition = slurm.partition(cluster.partition)
        if partition is None:
            continue
        if nodes > partition.max_nodes:
            problems[
                f"nodes = {nodes} exceeds what partition {partition.name} gives a job, {partition.max_nodes}: "
                "ask for fewer, or name another with cluster.partition"
            ] = None
        asked, limit = limit_seconds(cluster.time or ""), limit_seconds(partition.max_time)
        if asked is not None and limit is not None and asked > limit:
            less = "ask for less (the job queues itself again until the run is finished)"
            problems[
                f"cluster.time = {cluster.time!r} exceeds the limit of partition {partition.name}, "
                f"{partition.max_time}: {less if job.goes_on else 'ask for less, or name another with cluster.partition'}"
            ] = None
    if problems:
        raise ConfigError(list(problems))


def history(submission: Submission) -> list[str]:
    """Tells what a person should know about what the run's directory holds already, a sentence each."""
    run_dir = submission.place.run
    told = []
    if (run_dir / "run.yaml").exists():
        try:
            run = run_of(submission.config)
            changed = runfile.diff(runfile.read(run_dir / "run.yaml", type(run)), run)
        except ConfigError as error:
            changed = error.problems
        told += [f"changed since it was started: {change}" for change in changed]
    latest = Path(submission.config.checkpoint.dir or run_dir / "checkpoints", "latest")
    if latest.is_file():
        told.append(_beginning(submission.config.train.resume, latest))
    return told


def _beginning(resume: str, latest: Path) -> str:
    """Where a run begins that has checkpoints already."""
    own = f"continues from {latest.read_text(errors='replace').strip()}"
    if resume == "auto":
        return own
    # They bring fsspec.
    from dist_plm.checkpoint.storage import open_storage
    from dist_plm.train.opening.expected_position import resumes_own

    if resumes_own(resume, open_storage(str(latest.parent))):
        return f"{own}: train.resume={resume} says how the run began; to begin another give it another run.name"
    return f"starts {'anew' if resume == 'none' else f'from {resume}'}, though there are checkpoints: train.resume={resume}"


def queue(job: QueuedJob) -> str:
    """Writes the job's directory and submits it. Returns the job's number.

    Raises:
        SlurmError: Slurm refused; the directory stays.
    """
    lay_out(job)
    number = slurm.submit(job.place.script)
    note_job(job, number)
    return number


def lay_out(job: QueuedJob) -> None:
    """Writes the job's directory, with its configuration and the batch script.

    Raises:
        ConfigError: it was to be new, and is there.
    """
    place = job.place
    try:
        make_directory(place.run, private=job.cluster.private_runs, is_new=place.is_new)
    except FileExistsError:
        if not place.is_new:
            raise
        raise ConfigError([f"{place.run} was made meanwhile, by another submission: submit this one again"]) from None
    for path, settings in job.settings_files.items():
        runfile.write(settings, path)
    for path in (place.script, place.log):
        path.parent.mkdir(parents=True, exist_ok=True)
    place.script.write_text(job.script, encoding="utf-8")


def note_job(job: QueuedJob, number: str) -> None:
    """Keeps the number of a job beside what it wrote."""
    with _jobs_file(job.place).open("a") as file:
        file.write(f"{number}\n")


def _jobs_of(place: JobDirectories) -> list[str]:
    path = _jobs_file(place)
    return re.findall(r"(?m)^[0-9_]+$", path.read_text(errors="replace")) if path.is_file() else []


def _jobs_file(place: JobDirectories) -> Path:
    """Numbers of all jobs of the directory, one a line."""
    return place.run / "slurm" / "jobs"
