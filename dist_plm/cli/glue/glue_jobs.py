"""Submits the runs of `experiment=glue` as one array of Slurm, a task a run, and a job after it that makes the table."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_plm.cluster import slurm
from dist_plm.cluster.job import TEMPLATES, JobDirectories, directives, settings
from dist_plm.cluster.script import render
from dist_plm.cluster.submit import Submission, lay_out, note_job
from dist_plm.core.files import make_directory
from dist_plm.core.installed import shipped, start_words


@dataclass(frozen=True, slots=True)
class GlueJobs:
    """Holds what is submitted together.

    Args:
        prefix: begins the names of all runs.
        submissions: a run each, which ask Slurm for the same.
        words: of launch/finetune.py, which make the table.
    """

    prefix: str
    submissions: Sequence[Submission]
    words: Sequence[str]

    @property
    def place(self) -> JobDirectories:
        """Where the scripts and their logs are, beside the runs."""
        first = self.submissions[0].place
        return JobDirectories(working=first.working, run=first.run.parent / f"{self.prefix}-glue")

    @property
    def array_script(self) -> str:
        """Goes by the script of one of the runs, whose log it writes."""
        last = len(self.submissions) - 1
        lines = [
            "#!/usr/bin/env bash",
            f"# Runs of {self.prefix}, made by launch/submit.py: each task goes by the script of one of them.",
            *(f"#SBATCH {option}" for option in (*self._directives(f"{self.prefix}-glue"), f"--array=0-{last}")),
            "signalled=0",
            "trap 'signalled=1' USR1",
            "set -euo pipefail",
            "runs=(",
            *(f"    {shlex.quote(str(submission.place.run))}" for submission in self.submissions),
            ")",
            "run=${runs[SLURM_ARRAY_TASK_ID]}",
            'exec >>"$run/log/slurm-${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.log" 2>&1',
            f'source "$run/{self.submissions[0].place.script.relative_to(self.submissions[0].place.run)}"',
        ]
        return "\n".join(lines) + "\n"

    def table_script(self, array: str) -> str:
        """Tells what the runs reached, once all tasks of an array have ended, well or not."""
        cluster = self.submissions[0].config.cluster
        template = shipped("slurm") / TEMPLATES[cluster.launcher]
        after = (f"--dependency=afterany:{array}", "--kill-on-invalid-dep=yes")
        return render(
            template.read_text(encoding="utf-8"),
            head=f"The table of {self.prefix}, made by launch/submit.py from slurm/{template.name}.",
            directives=[*self._directives(f"{self.prefix}-table"), *after],
            settings=settings(cluster, None, self.place, script=[*start_words("finetune"), *self.words]),
        )

    def queue(self) -> tuple[list[str], str]:
        """Writes the directories of all runs, and submits them. Returns the numbers of the runs, and that of the table.

        Raises:
            SlurmError: Slurm refused; the directories stay.
        """
        for submission in self.submissions:
            lay_out(submission)
        array = slurm.submit(self._written("array.sbatch", self.array_script))
        numbers = [f"{array}_{task}" for task in range(len(self.submissions))]
        for submission, number in zip(self.submissions, numbers, strict=True):
            note_job(submission, number)
        return numbers, slurm.submit(self._written("table.sbatch", self.table_script(array)))

    def _directives(self, name: str) -> list[str]:
        config = self.submissions[0].config
        return directives(name, config.cluster, self.place, nodes=config.nodes, min_nodes=config.min_nodes)

    def _written(self, name: str, text: str) -> Path:
        place, private = self.place, self.submissions[0].config.cluster.private_runs
        for folder in (place.run, place.script.parent, place.log.parent):
            make_directory(folder, private=private)
        path = place.script.with_name(name)
        path.write_text(text, encoding="utf-8")
        return path
