"""Submits a job to Slurm that pretrains, fine-tunes, evaluates or generates, once its whole configuration has passed here.

    python launch/submit.py experiment=gpt2_small cluster=example nodes=8 cluster.time=24:00:00
    python launch/submit.py experiment=gpt2_small cluster=example nodes=8 submit.dry_run=true
    python launch/submit.py --multirun experiment=gpt2_small cluster=example optim.lr=1e-4,3e-4,6e-4
    python launch/submit.py command=finetune task=classify model.init_from=DIR data.train=train.csv cluster=example nodes=2
    python launch/submit.py command=evaluate from=runs/gpt data.path=corpus/mine cluster=example parallel.tensor=2
    python launch/submit.py command=generate from=runs/gpt prompts=questions.txt out=answers.jsonl cluster=example

It takes every setting of launch/pretrain.py, or of the launch script that command= names. A configuration that is refused,
here or by Slurm, queues nothing. The run's directory gets run.yaml, the batch script (slurm/run.sbatch, made from
slurm/*.sbatch), the configuration that every start of the job trains (slurm/config.yaml) and the job's log
(log/slurm-JOB.log). Before its time limit the job checkpoints and queues itself again. Submitted again with the same
run.name, a run goes on from its latest checkpoint. --multirun submits a job for each combination of values, each with a
run.name of its own.

What evaluates or generates has a directory of its own, RUN/evaluate/1 and so on, with the same files and, where out= names no
other, results.json or answers.jsonl. It keeps nothing until it ends: give it a cluster.time that is long enough. One that
Slurm starts again, after a node was lost or to make room, begins anew, three times at most (cluster.max_restarts).

Most used settings:
  command=finetune               fine-tunes on labelled rows, which are read and checked here; else it pretrains
  command=evaluate  generate     ask a model, which is looked at here, as are the texts, rows or prompts that are read
  cluster=NAME                   the site: conf/cluster/NAME.yaml; copy conf/cluster/example.yaml and change it
  nodes=8                        each with cluster.ranks_per_node ranks, of cluster.gpus_per_node GPUs
  min_nodes=6                    starts on fewer, a run with the same batch and order of samples, where nodes are lost
  cluster.time=24:00:00          limit of the job; cluster.max_restarts is how often it may queue itself again
  cluster.partition=gpu  cluster.account=lab
  cluster.gpu=h100               says first whether a run fits and how long it takes, as launch/plan.py does
  submit.dry_run=true            prints the batch script and submits nothing
  submit.rehearse=true           goes through a step of some ranks first, as launch/rehearse.py does
  submit.watch=true              follows the job's state and metrics until it ends
  submit.check_data=false        where what is read, or what the run begins with, cannot be opened from here
  submit.dir=DIR                 the directory of what evaluates or generates
"""

import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NoReturn

from dist_plm.cli import app
from dist_plm.cli.glue.glue_cells import asks_for_glue, prefix_of
from dist_plm.cli.glue.glue_jobs import GlueJobs
from dist_plm.cli.glue.glue_sweep import placed_cells
from dist_plm.cli.glue.glue_table import reached
from dist_plm.cli.submitting.submit_inference import submit_inference
from dist_plm.cli.submitting.told_jobs import told, watched
from dist_plm.cli.sweeps.sweep import SweepRun, expand, named, refuse_frozen_sweep, refuse_shared_directories
from dist_plm.cluster.check import AnySubmission, check, run_of
from dist_plm.cluster.submission.asked_of_slurm import world_size
from dist_plm.cluster.submit import Submission, history, queue, refuse_taken_directories, refuse_what_cannot_start
from dist_plm.cluster.watch import Followed
from dist_plm.config.origins import Origin
from dist_plm.config.runfile import mapping_of
from dist_plm.config.suggest import did_you_mean, near
from dist_plm.core.errors import ConfigError, NotRehearsedError
from dist_plm.core.installed import typed
from dist_plm.core.streams import tell
from dist_plm.plan.render import refusal, time_line, verdict_line
from dist_plm.plan.verdict import make_plan, remedies, require_vocabulary, told_by_data
from dist_plm.spec.inference.submissions import (
    EvaluateSubmissionConfig,
    GenerateSubmissionConfig,
    InferenceJobConfig,
    InferenceSubmission,
)
from dist_plm.spec.schema import SubmissionConfig
from dist_plm.spec.schema_finetune import FinetuneConfig, FinetuneSubmissionConfig, kind_of

#: Settings that the commands which jobs start do not have.
OWN = ("command", "nodes", "min_nodes", "submit")
#: Commands that can be submitted: what their settings decode into, and the root file in conf/.
TRAINING: Mapping[str, tuple[type[AnySubmission], str]] = {
    "pretrain": (SubmissionConfig, "submit"),
    "finetune": (FinetuneSubmissionConfig, "submit_finetune"),
}
INFERENCE: Mapping[str, tuple[type[InferenceSubmission], str]] = {
    "evaluate": (EvaluateSubmissionConfig, "submit_evaluate"),
    "generate": (GenerateSubmissionConfig, "submit_generate"),
}


def execute(arguments: Sequence[str]) -> int:
    return app.guarded(lambda: _execute(app.parse(arguments), arguments))


def command_of(overrides: Sequence[str]) -> tuple[type[AnySubmission] | type[InferenceSubmission], str]:
    """Finds what the settings of the command that `overrides` name decode into, and its root file.

    Raises:
        ConfigError: there is no such command.
    """
    return _of_command(_command_name(overrides))


def _command_name(overrides: Sequence[str]) -> str:
    named = [text.partition("=")[2] for text in overrides if text.lstrip("+").partition("=")[0] == "command"]
    return named[-1] if named else "pretrain"


def _command_in(file: str) -> object:
    """Reads the command of a file that --frozen names; of a run's own, which has none, what started it."""
    settings = mapping_of(file)
    return settings.get("command", "finetune" if kind_of(settings) is FinetuneConfig else "pretrain")


def _of_command(name: object) -> tuple[type[AnySubmission] | type[InferenceSubmission], str]:
    known = (*TRAINING, *INFERENCE)
    if isinstance(name, str) and name in known:
        return TRAINING[name] if name in TRAINING else INFERENCE[name]
    hint = did_you_mean(near(str(name), known))
    raise ConfigError([f"command = {name!r} is not what can be submitted{hint}; that is one of {', '.join(known)}"])


def _execute(options: Namespace, arguments: Sequence[str]) -> int:
    choices = _choices(options)
    flags = [word for word in arguments if word not in (*options.overrides, "-m", "--multirun")]
    only_shown = bool(app.PRINTING & set(flags))
    words = [list(choice.overrides) for choice in (choices if only_shown else choices[:1])]
    if options.check and options.multirun:
        loaded = [_load(choice, None, options.config_dir) for choice in choices]
        refuse_shared_directories([(config.run, config.checkpoint) for config, _ in loaded])
        words = [overrides for _, overrides in loaded]
    kind, root = command_of(options.overrides) if options.frozen is None else _of_command(_command_in(options.frozen))
    if options.multirun and issubclass(kind, InferenceJobConfig):
        raise ConfigError(["--multirun is for commands that train: submit this one once for each value"])
    act = partial(submit, choices, options)
    return max(app.front([*flags, *some], kind, root, act, __doc__ or "") for some in words)


def _choices(options: Namespace) -> list[SweepRun]:
    """The runs that are submitted: of experiment=glue those that are not finished."""
    refuse_frozen_sweep(options)
    if not asks_for_glue(options.overrides):
        return expand(options.overrides) if options.multirun else [SweepRun(tuple(options.overrides))]
    kind, root = command_of(options.overrides)
    if kind is not FinetuneSubmissionConfig:
        raise ConfigError(["experiment=glue is of fine-tuning: give command=finetune"])
    placed = placed_cells(options.overrides, options.config_dir, kind, root)
    choices = [SweepRun(one.cell.overrides) for one in placed.cells if reached(one.run_dir) is None]
    if not choices:
        raise ConfigError(
            [f"all {len(placed.cells)} runs are finished: launch/finetune.py with the same settings tells more"]
        )
    return choices


def submit(
    choices: Sequence[SweepRun],
    options: Namespace,
    first: AnySubmission | InferenceSubmission,
    origins: dict[str, Origin],
) -> int | None:
    """Submits all choices, or none if one is refused."""
    if isinstance(first, EvaluateSubmissionConfig | GenerateSubmissionConfig):
        return submit_inference(first, (*_sites(options.config_dir), *_given(options.overrides)))
    composed = [first, *[None] * (len(choices) - 1)]  # the first was, to get here
    submissions = [_prepare(*pair, options.config_dir) for pair in zip(choices, composed, strict=True)]
    refuse_taken_directories(submissions)
    if first.submit.dry_run:
        scripts = [submission.script for submission in submissions]
        if asks_for_glue(options.overrides):
            jobs = _glue_jobs(options, submissions)
            scripts += [jobs.array_script, jobs.table_script("ARRAY")]
        print("\n".join(scripts), end="")
        return None
    refuse_what_cannot_start(submissions)
    for submission in submissions:
        _plan(submission)
        _rehearse(submission)
    if asks_for_glue(options.overrides):
        jobs = _queue_glue(_glue_jobs(options, submissions))
    else:
        jobs = [_queue(submission) for submission in submissions]
    return watched(jobs) if first.submit.watch else None


def _glue_jobs(options: Namespace, submissions: Sequence[Submission]) -> GlueJobs:
    """The runs of experiment=glue as an array, and the command that makes their table."""
    words = [*_sites(options.config_dir), *_given(options.overrides), "glue.measure=true"]
    return GlueJobs(prefix_of(options.overrides), submissions, words)


def _queue_glue(jobs: GlueJobs) -> list[Followed]:
    notes = [history(submission) for submission in jobs.submissions]
    numbers, table = jobs.queue()
    followed = [_told(*known) for known in zip(jobs.submissions, numbers, notes, strict=True)]
    log = jobs.place.log_of(table)
    tell(f"job {table} makes the table of all runs once they have ended\n  log     {log}\n  stop    scancel {table}")
    return followed


def _load(
    choice: SweepRun, composed: AnySubmission | None, config_dirs: Sequence[str]
) -> tuple[AnySubmission, list[str]]:
    """Composes one run of a sweep under a name of its own, with the overrides that make it.

    Args:
        composed: what the choice's overrides make; None where they were not composed yet, which takes a tenth of a second.
    """
    kind, root = TRAINING[_command_name(choice.overrides)]
    config = app.load(kind, root, choice.overrides, config_dirs)[0] if composed is None else composed
    overrides = named(choice, config.run.name)
    if overrides == [*choice.overrides]:
        return config, overrides
    return app.load(kind, root, overrides, config_dirs)[0], overrides


def _prepare(choice: SweepRun, composed: AnySubmission | None, config_dirs: Sequence[str]) -> Submission:
    config, overrides = _load(choice, composed, config_dirs)
    return Submission(config, check(config), (*_sites(config_dirs), *_given(overrides)))


def _given(overrides: Sequence[str]) -> list[str]:
    """The settings that the command which the job starts has too."""
    return [text for text in overrides if text.lstrip("+~").split("=")[0].split(".")[0] not in OWN]


def _sites(config_dirs: Sequence[str]) -> list[str]:
    return [word for folder in config_dirs for word in ("--config-dir", folder)]


def _plan(submission: Submission) -> None:
    """Prints what a plan says, where the GPU, the vocabulary and the number of steps are known.

    Raises:
        ConfigError: the run cannot fit.
    """
    run, given = run_of(submission.config), run_of(submission.given)
    untold = run.train.steps is None or run.objective.untold(run.model) is not None
    if run.cluster.gpu is None or run.model.vocab_size is None or untold:
        return  # of a run whose rows are not here nobody knows how long it goes
    ranks = world_size(submission.config.nodes, run.cluster)
    plan = make_plan(run, ranks)
    changes = [] if plan.verdict == "fits" else remedies(told_by_data(given, run), ranks, plan.gpu)
    if plan.verdict == "does not fit" and not submission.config.submit.force:
        raise ConfigError([f"{refusal(plan, changes)}; submit.force=true queues it all the same"])
    print("\n".join([f"plan: {verdict_line(plan)}", *(f"  would fit with  {change}" for change in changes)]))
    print(f"      {time_line(plan)}")


def _rehearse(submission: Submission) -> None:
    """Goes through a step of the worst ranks where that is asked for, and can be done here.

    Raises:
        ConfigError: ranks disagree, or fail.
    """
    if not submission.config.submit.rehearse:
        return
    # It imports torch, which submitting does without.
    from dist_plm.cli.commands.rehearse import from_the_start, rehearsed

    run = run_of(submission.config)
    if isinstance(run, FinetuneConfig):
        if not submission.config.submit.check_data:
            raise ConfigError(
                ["submit.rehearse = true needs the rows that submit.check_data = false leaves: leave one out"]
            )
        given = run_of(submission.given)
        assert isinstance(given, FinetuneConfig)
        run = from_the_start(given, run)
    require_vocabulary(run.model)
    try:
        rehearsal = rehearsed(run, world_size(submission.config.nodes, run.cluster), "worst")
    except NotRehearsedError as error:
        tell(f"{error}\nThis does not speak against the run: the job is queued without", sys.stderr)
        return
    if rehearsal.problems:
        raise ConfigError([*rehearsal.problems])
    print(f"rehearsed: ranks {', '.join(map(str, rehearsal.ranks))} agree, in {rehearsal.seconds:.0f} s")


def _queue(submission: Submission) -> Followed:
    notes = history(submission)
    return _told(submission, queue(submission), notes)


def _told(submission: Submission, number: str, notes: Sequence[str]) -> Followed:
    """Tells of a run that was submitted."""
    run = str(submission.place.run)
    return told(submission, number, {"run": run}, notes, {"report": f"{typed('report')} {shlex.quote(run)}"})


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    sys.exit(execute(sys.argv[1:]))


if __name__ == "__main__":
    main()
