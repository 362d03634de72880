"""From checked configurations to jobs in the queue."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dist_plm.cluster import slurm
from dist_plm.cluster.check import AnySubmission, limit_seconds, node_counts, run_of
from dist_plm.cluster.job import JobDirectories, batch_script
from dist_plm.config import runfile
from dist_plm.core.errors import ConfigError
from dist_plm.core.files import make_directory
from dist_plm.spec.rules.checkpoint import shared_directories
from dist_plm.spec.schema import TrainingConfig


@dataclass(frozen=True, slots=True)
class Submission:
    """A run to submit.

    Args:
        given: as the user wrote it: what follows from the number of nodes is still None.
        config: the same checked and complete.
        overrides: that it was made from.
    """

    given: AnySubmission
    config: AnySubmission
    overrides: tuple[str, ...]

    @property
    def place(self) -> JobDirectories:
        assert self.config.run.dir is not None, "run.dir is None: check the configuration first"
        return JobDirectories(working=Path.cwd(), run=Path.cwd() / self.config.run.dir)

    @property
    def script(self) -> str:
        return batch_script(self.config, self.overrides, self.place, node_counts(self.given))

    @property
    def frozen(self) -> TrainingConfig:
        """Gives what each start of the job trains: on how many nodes, each start finds out."""
        run = run_of(self.given)
        return replace(run, run=replace(run.run, dir=str(self.place.run)))


def refuse_taken_directories(submissions: Sequence[Submission]) -> None:
    """Two jobs that write into one directory would destroy each other's run.

    Raises:
        ConfigError: two of `submissions` share one, or a job that still runs or waits has it.
    """
    configs = [submission.config for submission in submissions]
    problems = list(shared_directories((config.run, config.checkpoint) for config in configs))
    for submission in submissions:
        run_dir = submission.place.run
        for number in _jobs_of(submission.place):
            state = slurm.job_state(number)
            if not state.ended:
                problems.append(
                    f"run.dir = {str(run_dir)!r} belongs to job {number}, which is {state.name} {state.where}: "
                    f"cancel it with scancel {number}, or give this run another run.name"
                )
    if problems:
        raise ConfigError(problems)


def refuse_what_cannot_start(submissions: Sequence[Submission]) -> None:
    """Slurm refuses most of what a partition cannot give, yet lets too many nodes or too long a time wait for ever.

    Raises:
        ConfigError: with a sentence for each limit that is exceeded.
    """
    problems: dict[str, None] = {}
    for config in (submission.config for submission in submissions):
        partition = slurm.partition(config.cluster.partition)
        if partition is None:
            continue
        if config.nodes > partition.max_nodes:
            problems[
                f"nodes = {config.nodes} exceeds what partition {partition.name} gives a job, {partition.max_nodes}: "
                "ask for fewer, or name another with cluster.partition"
            ] = None
        asked, limit = limit_seconds(config.cluster.time or ""), limit_seconds(partition.max_time)
        if asked is not None and limit is not None and asked > limit:
            problems[
                f"cluster.time = {config.cluster.time!r} exceeds the limit of partition {partition.name}, "
                f"{partition.max_time}: ask for less (the job queues itself again until the run is finished)"
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
    # They bring PyTorch.
    from dist_plm.checkpoint.storage import open_storage
    from dist_plm.train.startup.resume_point import resumes_own

    if resumes_own(resume, open_storage(str(latest.parent))):
        return f"{own}: train.resume={resume} says how the run began; to begin another give it another run.name"
    return f"starts {'anew' if resume == 'none' else f'from {resume}'}, though there are checkpoints: train.resume={resume}"


def queue(submission: Submission) -> str:
    """Writes the run's directory and submits it. Returns the job's number.

    Raises:
        SlurmError: Slurm refused; the directory stays.
    """
    lay_out(submission)
    number = slurm.submit(submission.place.script)
    note_job(submission, number)
    return number


def lay_out(submission: Submission) -> None:
    """Writes the run's directory, with run.yaml and the batch script."""
    place = submission.place
    make_directory(place.run, private=submission.config.cluster.private_runs)
    runfile.write(run_of(submission.config), place.run / "run.yaml")
    runfile.write(submission.frozen, place.frozen)
    for path in (place.script, place.log):
        path.parent.mkdir(parents=True, exist_ok=True)
    place.script.write_text(submission.script, encoding="utf-8")


def note_job(submission: Submission, number: str) -> None:
    """Keeps the number of a job beside the run that it is of."""
    with _jobs_file(submission.place).open("a") as file:
        file.write(f"{number}\n")


def _jobs_of(place: JobDirectories) -> list[str]:
    path = _jobs_file(place)
    return re.findall(r"(?m)^[0-9_]+$", path.read_text(errors="replace")) if path.is_file() else []


def _jobs_file(place: JobDirectories) -> Path:
    """Numbers of all jobs of the run, one a line."""
    return place.run / "slurm" / "jobs"
