"""The batch script of a job: what a cluster's settings mean in sbatch's words and in shell."""

import re
import shlex
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_plm.cluster.check import AnySubmission
from dist_plm.cluster.script import render
from dist_plm.cluster.submission.asked_of_slurm import ranks_per_node
from dist_plm.config.credentials import FromEnvironment
from dist_plm.core.errors import ConfigError
from dist_plm.core.installed import hydra_quoted, shipped, start_words
from dist_plm.spec.rules.paths import UNWRITABLE
from dist_plm.spec.schema import JobConfig
from dist_plm.spec.schema_run import ClusterConfig

TEMPLATES = {"torchrun": "pretrain.sbatch", "srun": "pretrain_srun.sbatch"}


@dataclass(frozen=True, slots=True)
class JobDirectories:
    """Holds the directories of a job, absolute: where it runs and where it writes, that is in `run`.

    Args:
        setting: that names `run`.
        is_new: nobody has made `run` yet.
    """

    working: Path
    run: Path
    setting: str = "run.dir"
    is_new: bool = False

    @property
    def script(self) -> Path:
        return self.run / "slurm" / "run.sbatch"

    @property
    def frozen(self) -> Path:
        """The configuration that every start of the job trains, whatever becomes of conf/ meanwhile."""
        return self.run / "slurm" / "config.yaml"

    @property
    def log(self) -> Path:
        """Where the job's console goes; Slurm puts its number for %j."""
        return self.run / "log" / "slurm-%j.log"

    def log_of(self, number: str) -> Path:
        """Where the console of the job of that number goes; a folder may have %j in its name."""
        return self.log.with_name(self.log.name.replace("%j", number))


def batch_script(
    submission: AnySubmission, overrides: Sequence[str], place: JobDirectories, counts: Sequence[int] = ()
) -> str:
    """The text of a batch script that trains the configuration at `place.frozen`.

    Args:
        overrides: what that was made from, for people to read.
        counts: of nodes, on which it can train, most first.
    """
    return job_script(
        submission.run.name,
        submission,
        submission.cluster,
        overrides,
        place,
        counts,
        checkpoints=submission.checkpoint.dir,
    )


def job_script(
    name: str,
    job: JobConfig,
    cluster: ClusterConfig,
    overrides: Sequence[str],
    place: JobDirectories,
    counts: Sequence[int],
    *,
    checkpoints: str | None = None,
    goes_on: bool = True,
) -> str:
    """The text of a batch script that starts job.command with the configuration at `place.frozen`; see `batch_script`.

    Args:
        name: of the job.
        checkpoints: checkpoint.dir.
        goes_on: what is started again goes on from a checkpoint, for which it is told before its time limit; else it begins
            anew.
    """
    template = shipped("slurm") / TEMPLATES[cluster.launcher]
    made_from = f"\nThe settings, frozen in {place.frozen.name} beside it: {shlex.join(overrides)}" if overrides else ""
    return render(
        template.read_text(encoding="utf-8"),
        head=f"{'Run' if goes_on else 'Job'} {name}, made by launch/submit.py from slurm/{template.name}.{made_from}\n"
        f"Start it again by hand: sbatch {shlex.quote(str(place.script))}",
        directives=directives(name, cluster, place, nodes=job.nodes, min_nodes=job.min_nodes, is_signalled=goes_on),
        settings=settings(cluster, checkpoints, place, counts, command=job.command, goes_on=goes_on),
    )


def directives(
    name: str,
    cluster: ClusterConfig,
    place: JobDirectories,
    *,
    nodes: int,
    min_nodes: int | None,
    is_signalled: bool = True,
) -> list[str]:
    """Builds the options of sbatch, one each, of a job called `name`, which is told before its time limit or not."""
    ranks = ranks_per_node(cluster)
    tasks = ranks if cluster.launcher == "srun" else 1
    # Of a range of nodes Slurm gives as few as hold the tasks, where it is told how many these are: then, only processors.
    flexible = min_nodes is not None
    given = {
        "--job-name": name,
        "--partition": cluster.partition,
        "--account": cluster.account,
        "--qos": cluster.qos,
        "--nodes": f"{min_nodes}-{nodes}" if min_nodes else nodes,
        "--ntasks-per-node": None if flexible else tasks,
        "--mincpus": tasks * (cluster.cpus_per_rank or 1) if flexible and cluster.launcher == "srun" else None,
        "--gpus-per-node": _gpus(cluster),
        "--cpus-per-task": cluster.cpus_per_rank and cluster.cpus_per_rank * ranks // tasks,
        "--mem": cluster.memory,
        "--time": cluster.time,
        "--signal": f"USR1@{cluster.signal_seconds}" if is_signalled else None,
        "--chdir": place.working,
        "--output": _output(place),
        "--open-mode": "append",
    }
    lines = [f"{option}={_word(str(value), option)}" for option, value in given.items() if value is not None]
    return [*lines, "--requeue", *map(_option, cluster.options)]


def settings(
    cluster: ClusterConfig,
    checkpoints: str | None,
    place: JobDirectories,
    counts: Sequence[int] = (),
    *,
    command: str = "pretrain",
    script: Sequence[str] | None = None,
    goes_on: bool = True,
) -> list[str]:
    """Builds lines of shell, in place of those that a person would change in the template.

    Args:
        checkpoints: checkpoint.dir.
        command: that starts with the configuration at `place.frozen`.
        script: that is started in its place.
        goes_on: see `job_script`.
    """
    script = [*start_words(command), "--frozen", str(place.frozen)] if script is None else script
    lines = [
        f"source {_word(str(shipped('slurm') / 'common.sh'), 'the program')}",
        f"run_dir={_word(str(place.run), place.setting)}",
        *([f"checkpoints={_word(_in_the_open(checkpoints), 'checkpoint.dir')}"] if checkpoints else []),
        f"max_restarts={cluster.max_restarts}",
        *([] if goes_on else ["anew=1"]),
        *(["exclude_slow=1"] if cluster.exclude_slow and goes_on else []),
        *([f"restarts_in_job={cluster.restarts_in_job}"] if cluster.launcher == "torchrun" else []),
        f"ranks_per_node={ranks_per_node(cluster)}",
        *([f"node_counts=({' '.join(map(str, counts))})"] if len(counts) > 1 else []),
        f"python={_word(cluster.python or sys.executable, 'cluster.python')}",
        "script=(",
        *(f"    {_word(word, place.setting)}" for word in script),
        ")",
        f"container=({' '.join(map(_words_with_variables, shlex.split(cluster.container or '')))})",
    ]
    if cluster.setup:
        # Environment modules and the like trip over `set -u`.
        lines += ["set +u", *cluster.setup, "set -u"]
    if cluster.cpus_per_rank is not None:
        lines.append(f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cluster.cpus_per_rank}}}")
    if cluster.interface is not None:
        interface = _word(cluster.interface, "cluster.interface")
        lines.append(f"export GLOO_SOCKET_IFNAME={interface} NCCL_SOCKET_IFNAME=={interface}")
    if cluster.scratch is not None:
        lines.append(f'export TMPDIR="{cluster.scratch}"')
    return lines


def hydra_text(text: str) -> str:
    """`text` as a value in Hydra's grammar of overrides."""
    return text if re.fullmatch(r"/[A-Za-z0-9_/.-]+", text) else hydra_quoted(text)


def _word(text: str, key: str) -> str:
    """`text` as one word of shell, on one line.

    Raises:
        ConfigError: it holds a line break or another control character, and so do the script's lines.
    """
    if isinstance(text, FromEnvironment):
        raise ConfigError([f"{key}: {text.written} would stand in the batch script: only URLs may hold a credential"])
    if not text.isprintable() and any(unicodedata.category(character) in UNWRITABLE for character in text):
        raise ConfigError(
            [f"{key}: {text!r} goes into the batch script and holds a line break or another control character"]
        )
    return shlex.quote(text)


def _in_the_open(url: str) -> str:
    """Cuts a URL that holds a credential down to its protocol: all that the script asks of it."""
    return f"{url.partition('://')[0]}://" if isinstance(url, FromEnvironment) and "://" in url else url


def _output(place: JobDirectories) -> str:
    """A pattern of sbatch that gives the path with the job's number for %j.

    Raises:
        ConfigError: the path holds a backslash, after which sbatch replaces nothing.
    """
    if "\\" in str(place.log):
        raise ConfigError(
            [
                f"{place.setting}: {str(place.log.parent)!r} holds a backslash, which means something else to Slurm: use "
                "another"
            ]
        )
    return re.sub(r"%(?!j\.log$)", "%%", str(place.log))


def _option(option: str) -> str:
    """An option of sbatch as one word, whether its value was quoted or not."""
    (word,) = shlex.split(option)
    name, equals, value = word.partition("=")
    return f"{name}={_word(value, f'cluster.options {name}')}" if equals else name


def _words_with_variables(word: str) -> str:
    """A word in which $NAME and ${NAME} stand for variables of the job, and nothing else means anything to a shell."""
    return f'"{word}"' if "$" in word else _word(word, "cluster.container")


def _gpus(cluster: ClusterConfig) -> str | None:
    if cluster.gpus_per_node == 0:
        return None
    return f"{cluster.gpu_type}:{cluster.gpus_per_node}" if cluster.gpu_type else str(cluster.gpus_per_node)
