"""Checks what Slurm is asked for: nodes, time, devices, and all that goes into a batch script."""

import re
import shlex
from collections.abc import Callable, Iterator

from dist_plm.config.decode import encode, show
from dist_plm.spec.rules.paths import path_problems
from dist_plm.spec.schema import JobConfig
from dist_plm.spec.schema_run import ClusterConfig

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
#: Variables of the job in text that the script puts between double quotes, and signs that would mean more there.
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})")
_SIGNS_OF_SHELL = re.compile(r"[\"`$\\]")


def slurm_problems(cluster: ClusterConfig, *, is_signalled: bool = True) -> list[str]:
    """Tells what is wrong with what Slurm is asked for.

    Args:
        is_signalled: the job is told before its time limit, and needs the time until then.
    """
    rules = (_gpus, _options, _memory, _paths, _credentials)
    return [*time_problems(cluster, is_signalled=is_signalled), *(p for rule in rules for p in rule(cluster))]


def ranks_per_node(cluster: ClusterConfig) -> int:
    """Counts the ranks of a node."""
    return cluster.ranks_per_node or cluster.gpus_per_node or 1


def world_size(nodes: int, cluster: ClusterConfig) -> int:
    """Counts the ranks of so many nodes."""
    return nodes * ranks_per_node(cluster)


def node_counts(job: JobConfig, problems_on: Callable[[int], list[str]]) -> list[int]:
    """From `nodes` down to `min_nodes`, those on which nothing is wrong."""
    counts = range(job.nodes, (job.min_nodes or job.nodes) - 1, -1)
    return [count for count in counts if not problems_on(count)]


def fewer_nodes_problems(job: JobConfig, problems_on: Callable[[int], list[str]]) -> list[str]:
    """Tells what is wrong with the fewest nodes that a job may get."""
    least = job.min_nodes
    if least is None:
        return []
    if least > job.nodes:
        return [f"min_nodes = {least} exceeds nodes = {job.nodes}, the most that the job gets: lower it"]
    return [f"on min_nodes = {least}: {problem}" for problem in problems_on(least)]


def limit_seconds(text: str) -> int | None:
    """Reads a time limit as Slurm writes it, in seconds; None where it is not one."""
    for form in _TIME_FORMS:
        if match := re.fullmatch(form.replace("N", "[0-9]{1,9}"), text):
            return sum(_UNIT_SECONDS[unit] * int(number) for unit, number in match.groupdict().items() if number)
    return None


def time_problems(cluster: ClusterConfig, *, is_signalled: bool = True) -> Iterator[str]:
    """Yields what is wrong with the time limit. See `slurm_problems`."""
    if cluster.time is None:
        return
    limit = limit_seconds(cluster.time)
    if limit is None:
        yield (
            f"cluster.time = {show(cluster.time)} is not a time limit: write hours:minutes:seconds, as in 24:00:00, "
            "or days-hours, as in 2-12"
        )
    elif is_signalled and limit <= cluster.signal_seconds:
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
