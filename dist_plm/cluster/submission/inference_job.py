"""Jobs that ask a finished model: an evaluation, or what it writes."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from dist_plm.cluster.job import JobDirectories, job_script
from dist_plm.cluster.submission.asked_of_slurm import node_counts, world_size
from dist_plm.core.errors import ConfigError
from dist_plm.monitor.metrics_file import run_directory
from dist_plm.spec.inference.submissions import InferenceSubmission, asked_by
from dist_plm.spec.rules.grid import process_problems
from dist_plm.spec.schema import JobConfig
from dist_plm.spec.schema_run import ClusterConfig


@dataclass(frozen=True, slots=True)
class InferenceJob:
    """An evaluation or a generation to submit.

    Args:
        config: checked, and `placed`.
        overrides: that it was made from.
        is_new: the job's directory is its own, and not one that the user named.
    """

    goes_on: ClassVar[bool] = False

    config: InferenceSubmission
    overrides: tuple[str, ...]
    is_new: bool

    @property
    def job(self) -> JobConfig:
        return self.config

    @property
    def cluster(self) -> ClusterConfig:
        return self.config.cluster

    @property
    def place(self) -> JobDirectories:
        directory = self.config.submit.dir
        assert directory is not None, "submit.dir is None: place the job first"
        here = Path.cwd()
        return JobDirectories(working=here, run=here / directory, setting="submit.dir", is_new=self.is_new)

    @property
    def script(self) -> str:
        config = self.config
        counts = node_counts(config, partial(problems_on, config))
        name = "-".join(filter(None, (config.command, model_name(config))))
        return job_script(name, config, config.cluster, self.overrides, self.place, counts, goes_on=False)

    @property
    def settings_files(self) -> Mapping[Path, Any]:
        return {self.place.frozen: asked_by(self.config)}


def problems_on(config: InferenceSubmission, nodes: int) -> list[str]:
    """Tells why the ranks of so many nodes make no grid."""
    return list(process_problems(config.parallel, world_size(nodes, config.cluster)))


def placed(config: InferenceSubmission) -> InferenceSubmission:
    """Says where the job's directory is, and where results go.

    Raises:
        ConfigError: it cannot be made there.
    """
    directory = config.submit.dir or str(_new_directory(config))
    there = Path(directory).absolute()
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "cannot be written to" if there.is_dir() else "is no directory"
        raise ConfigError(
            [f"the job's directory cannot be {directory}, as {there} {reason}: name another with submit.dir=DIR"]
        )
    out = config.out or f"{directory}/{config.result}"
    return replace(config, submit=replace(config.submit, dir=directory), out=out)


def model_name(config: InferenceSubmission) -> str:
    """Names the model for people: as its run, or by the last part of its path; "" where none is asked."""
    run = _run_directory(config)
    return (config.from_ or "").rstrip("/").rpartition("/")[2] if run is None else run.name


def _run_directory(config: InferenceSubmission) -> Path | None:
    return None if config.from_ is None or "://" in config.from_ else run_directory(config.from_)


def _new_directory(config: InferenceSubmission) -> Path:
    """The next number in the run's directory, or in one for the model."""
    run = _run_directory(config)
    above = Path("runs", config.command, model_name(config)) if run is None else run / config.command
    numbers = [int(path.name) for path in above.glob("[0-9]*") if path.name.isdecimal()]
    return above / str(max(numbers, default=0) + 1)
