"""Is a run fit to be queued? Everything that can be known on the login node is asked there, not hours later."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, overload

from dist_plm.config.decode import encode, show
from dist_plm.core.errors import CheckpointError, ConfigError, DataError
from dist_plm.spec.derived import checkpoints_of
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.rules.paths import path_problems
from dist_plm.spec.schema import PretrainConfig, SubmissionConfig, Training, TrainingConfig
from dist_plm.spec.schema_finetune import FinetuneConfig, FinetuneSubmissionConfig
from dist_plm.spec.schema_run import ClusterConfig

if TYPE_CHECKING:
    from dist_plm.data.sampling.blend import Dataset

#: A run of any kind that is submitted.
AnySubmission = SubmissionConfig | FinetuneSubmissionConfig
#: The same, where it stays of its kind.
Submitted = TypeVar("Submitted", bound=AnySubmission)

#: Slurm's forms of a time limit, by which units their numbers count: sbatch(1), --time.
_TIME_FORMS = (
    r"(?P<minutes>N)(:(?P<seconds>N))?",
    r"(?P<hours>N):(?P<minutes>N):(?P<seconds>N)",
    r"(?P<days>N)-(?P<hours>N)(:(?P<minutes>N)(:(?P<seconds>N))?)?",
)
_UNIT_SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
#: What launch/submit.py gives sbatch itself. sbatch takes an option's beginning for the option, unless that is another one.
_OWN_OPTIONS = (
    *(
        "--job-name",
        "--nodes",
        "--ntasks",
        "--ntasks-per-node",
        "--mincpus",
        "--cpus-per-task",
        "--gpus-per-node",
        "--mem",
    ),
    *("--time", "--partition", "--account", "--qos", "--chdir", "--output", "--open-mode", "--requeue", "--no-requeue"),
    *("--signal", "--array"),
)
_OTHER_OPTIONS = ("--gpus",)
DEVICES = Path("/dev")
#: Devices of NVIDIA's driver, of WSL's, and of AMD's.
_GPUS = ("nvidia[0-9]*", "dxg", "kfd")
#: Variables of the job in text that the script puts between double quotes, and signs that would mean more there.
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})")
_SIGNS_OF_SHELL = re.compile(r"[\"`$\\]")


def check(submission: Submitted) -> Submitted:
    """The run complete and checked for the ranks that its nodes will have, and what Slurm is asked for checked.

    Raises:
        ConfigError: with every rule that is broken.
        DataError: what it learns from cannot be used.
        CheckpointError: what the run begins with cannot.
    """
    problems = [p for rule in (_time, _gpus, _options, _memory, _paths, _credentials) for p in rule(submission.cluster)]
    run = run_of(submission)
    try:
        with_data = submission.submit.check_data
        run = check_run(
            run, world_size(submission.nodes, submission.cluster), with_data=with_data, with_weights=with_data
        )
    except ConfigError as error:
        raise ConfigError(problems + error.problems) from error
    except (DataError, CheckpointError):
        if not problems:
            raise
    problems += _fewer_nodes(submission)
    if problems:
        raise ConfigError(problems)
    return replace(submission, **{f.name: getattr(run, f.name) for f in fields(run)})


@overload
def run_of(submission: PretrainConfig) -> PretrainConfig: ...
@overload
def run_of(submission: FinetuneConfig) -> FinetuneConfig: ...
def run_of(submission: TrainingConfig) -> TrainingConfig:
    """The run alone, as the command that trains it knows it."""
    kind = FinetuneConfig if isinstance(submission, FinetuneConfig) else PretrainConfig
    return kind(**{f.name: getattr(submission, f.name) for f in fields(kind)})


def ranks_per_node(cluster: ClusterConfig) -> int:
    return cluster.ranks_per_node or cluster.gpus_per_node or 1


def node_counts(submission: AnySubmission) -> list[int]:
    """From `nodes` down to `min_nodes`, those on which the run can train: its data ranks must divide the global batch."""
    counts = range(submission.nodes, (submission.min_nodes or submission.nodes) - 1, -1)
    return [count for count in counts if not _problems_on(submission, count)]


def _problems_on(submission: AnySubmission, nodes: int) -> list[str]:
    # What data ranks there are follows from the number of nodes, unless the user fixed it.
    run = run_of(submission)
    try:
        finalize(run, world_size=world_size(nodes, submission.cluster), vocab_size=run.model.vocab_size)
    except ConfigError as error:
        return error.problems
    return []


def _fewer_nodes(submission: AnySubmission) -> list[str]:
    least = submission.min_nodes
    if least is None:
        return []
    if least > submission.nodes:
        return [f"min_nodes = {least} exceeds nodes = {submission.nodes}, the most that the job gets: lower it"]
    return [f"on min_nodes = {least}: {problem}" for problem in _problems_on(submission, least)]


def world_size(nodes: int, cluster: ClusterConfig) -> int:
    """Counts the ranks of so many nodes."""
    return nodes * ranks_per_node(cluster)


def limit_seconds(text: str) -> int | None:
    """Reads a time limit as Slurm writes it, in seconds; None where it is not one."""
    for form in _TIME_FORMS:
        if match := re.fullmatch(form.replace("N", "[0-9]{1,9}"), text):
            return sum(_UNIT_SECONDS[unit] * int(number) for unit, number in match.groupdict().items() if number)
    return None


def _time(cluster: ClusterConfig) -> Iterator[str]:
    if cluster.time is None:
        return
    limit = limit_seconds(cluster.time)
    if limit is None:
        yield (
            f"cluster.time = {show(cluster.time)} is not a time limit: write hours:minutes:seconds, as in 24:00:00, "
            "or days-hours, as in 2-12"
        )
    elif limit <= cluster.signal_seconds:
        yield (
            f"cluster.time = {show(cluster.time)} leaves no time to train: the run is told to checkpoint "
            f"cluster.signal_seconds = {cluster.signal_seconds} before the limit; raise the one or lower the other"
        )


def _gpus(cluster: ClusterConfig) -> Iterator[str]:
    ranks, gpus = ranks_per_node(cluster), cluster.gpus_per_node
    if cluster.device == "cuda" and gpus == 0:
        yield (
            "cluster.device = 'cuda' with cluster.gpus_per_node = 0 asks Slurm for no GPU: set cluster.gpus_per_node, "
            "or choose a cluster that sets it, as in cluster=example"
        )
    elif cluster.device != "cpu" and 0 < gpus < ranks:
        yield (
            f"cluster.ranks_per_node = {ranks} exceeds cluster.gpus_per_node = {gpus}, and a rank needs a GPU of its "
            f"own: set cluster.ranks_per_node={gpus}, or leave it out"
        )
    if cluster.gpu_type is not None and gpus == 0:
        yield (
            f"cluster.gpu_type = {show(cluster.gpu_type)} has no effect with cluster.gpus_per_node = 0: set "
            "cluster.gpus_per_node, or cluster.gpu_type=null"
        )


def _options(cluster: ClusterConfig) -> Iterator[str]:
    for option in cluster.options:
        named = f"cluster.options holds {show(option)}"
        name = option.partition("=")[0]
        if (
            not re.fullmatch(r"--[a-z][a-z-]*(=\S.*)?", option)
            or not option.isprintable()
            or len(_shell_words(option)) != 1
        ):
            yield (
                f"{named}, which is not of the form --option or --option=value, with quotes where a value has blanks, as in "
                "--comment='two words'"
            )
        elif meant := [
            own for own in _OWN_OPTIONS if name == own or (own.startswith(name) and name not in _OTHER_OPTIONS)
        ]:
            yield f"{named}, and {meant[0]} is given already: use the setting for it"
    for key in ("partition", "account", "qos", "gpu_type", "interface"):
        value = getattr(cluster, key)
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_.,:@+=-]+", value):
            yield f"cluster.{key} = {show(value)} is not allowed: it must be a name, or null"


def _shell_words(text: str) -> list[str]:
    """Nothing where quotes do not close."""
    try:
        return shlex.split(text)
    except ValueError:
        return []


def _memory(cluster: ClusterConfig) -> Iterator[str]:
    if cluster.memory is not None and not re.fullmatch(r"[0-9]{1,15}[KMGT]?", cluster.memory):
        yield (
            f"cluster.memory = {show(cluster.memory)} is not an amount of memory: write a number and one of K, M, G and "
            'T, as in 200G, or "0" for all of a node'
        )


def _paths(cluster: ClusterConfig) -> Iterator[str]:
    yield from path_problems("cluster.python", cluster.python)
    yield from path_problems("cluster.scratch", cluster.scratch)
    if cluster.scratch is not None and _SIGNS_OF_SHELL.search(_VARIABLE.sub("", cluster.scratch)):
        yield (
            f"cluster.scratch = {show(cluster.scratch)} is more than a path: write one in which $NAME and ${{NAME}} are "
            "variables of the job"
        )
    if cluster.container is not None:
        yield from _container_problems(cluster.container)
    for line in cluster.setup:
        if not line.isprintable():
            yield f"cluster.setup holds {show(line)}, which is more than a line: give each line of shell as an item of its own"


def _credentials(cluster: ClusterConfig) -> Iterator[str]:
    """The batch script is a file, and Slurm shows its options to everybody."""
    values = encode(cluster)
    texts = [(key, text) for key, value in values.items() for text in (value if isinstance(value, list) else [value])]
    for key, text in texts:
        if isinstance(text, str) and "${oc.env:" in text:
            yield (
                f"cluster.{key} holds {show(text)}, a credential that would stand in the batch script: export the variable "
                "where you submit, from where sbatch takes it over"
            )


def _container_problems(command: str) -> Iterator[str]:
    named = f"cluster.container = {show(command)}"
    words = _shell_words(command)
    if not command.strip():
        yield f"{named} is empty: give a command, or null"
    elif not words:
        yield f"{named} cannot be read by a shell: a quote does not close"
    elif not command.isprintable() or any(_SIGNS_OF_SHELL.search(_VARIABLE.sub("", word)) for word in words):
        yield f"{named} is more than a command and its arguments: in these $NAME and ${{NAME}} are variables of the job"


def check_run(run: Training, world_size: int, *, with_data: bool, with_weights: bool = True) -> Training:
    """A run complete and checked for `world_size` ranks; `with_data` opens what it will open, and `with_weights` looks at what
    it begins with (train.resume=PATH, train.init_from or model.init_from) and at whose checkpoint.dir is.

    Raises:
        ConfigError: with every rule that is broken, or every key that DeepSpeed does not know.
        DataError: the corpus cannot be used.
        CheckpointError: what it begins with cannot.
    """
    if run.engine.own_keys:
        # Brings the library, which alone knows these keys.
        import_module(f"dist_plm.engines.{run.engine.name}.json_schema").check_keys(run.engine.own_keys)
    samples: Dataset | None = None
    if with_data:
        run, samples = _with_data(run, world_size)
    else:
        run = finalize(run, world_size=world_size, vocab_size=None)
    places = (run.model.init_from, run.train.init_from, run.checkpoint.dir)
    if with_weights and (places != (None, None, None) or run.train.resume not in ("auto", "none")):
        # They bring PyTorch.
        from dist_plm.data.sampling.build_dataset import tokenizer_store
        from dist_plm.train.startup.load_weights import check_weights
        from dist_plm.train.startup.precheck import check_checkpoint

        own = checkpoints_of(run.run, run.checkpoint)
        check_weights(run.model, tokenizer_store(run.data), run.train.resume, own)
        directory = Path(run.run.dir or "")
        check_checkpoint(run.train, run.model, run.data, run.objective, samples, run_dir=directory, checkpoints=own)
    return run


def check_here(run: TrainingConfig, world_size: int) -> None:
    """Looks at a run that takes what device there is as one on the CPU, where this machine has no GPU.

    Raises:
        ConfigError: with every rule that is broken there.
    """
    if run.cluster.device != "auto" or any(next(DEVICES.glob(name), None) for name in _GPUS):
        return
    try:
        finalize(replace(run, cluster=replace(run.cluster, device="cpu")), world_size=world_size, vocab_size=None)
    except ConfigError as error:
        told = "there is no GPU here, where cluster.device=auto then takes the CPU; cluster.device=cuda checks for one"
        raise ConfigError([f"{problem} ({told})" for problem in error.problems]) from error


def _with_data(run: Training, world_size: int) -> "tuple[Training, Dataset]":
    # Brings NumPy, which launch scripts do without until they have to read data.
    from dist_plm.train.data import open_run

    run, data = open_run(run, world_size)
    return run, data.samples["train"]
