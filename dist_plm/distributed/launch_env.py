"""Says which process of how many this is, read from what torchrun or srun puts into the environment."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from dist_plm.core.errors import ConfigError, reason_of
from dist_plm.core.parsing import whole_number

#: Where ports derived from a Slurm job are taken from: below the range Linux gives to outgoing connections (32768 up).
FIRST_PORT, NUM_PORTS = 12000, 20000
#: Slurm numbers the steps that it makes itself (batch script, salloc shell, extern) from here up.
_FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchEnv:
    """The place of this process among those of its run. `master_port` 0, of a run of one process, is any free port."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    node_name: str = "localhost"
    master_addr: str = "127.0.0.1"
    master_port: int = 0


def from_environment(env: Mapping[str, str]) -> LaunchEnv:
    """Reads torchrun's variables where they are set, else srun's of a job step, else a run of one process.

    A batch script or a salloc shell also carries SLURM_* (SLURM_PROCID=0 and the job's SLURM_NTASKS among them), yet a
    plain python in it is one process: what tells a step by srun is SLURM_STEP_NUM_TASKS.

    Raises:
        ConfigError: where variables contradict each other, are half set, or another launcher started several processes.
    """
    node_name = env.get("SLURMD_NODENAME") or socket.gethostname()
    if "RANK" in env and "WORLD_SIZE" in env:
        return _checked(_from_torchrun(env, node_name))
    if "RANK" not in env and _is_slurm_step(env):
        return _checked(_from_srun(env, node_name))
    started = {name: env[name] for name in ("WORLD_SIZE", "RANK", "OMPI_COMM_WORLD_SIZE") if name in env}
    if started and set(started.items()) - {("WORLD_SIZE", "1"), ("RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")}:
        found = ", ".join(f"{name}={value}" for name, value in started.items())
        raise ConfigError(
            [f"{found} in the environment does not say which process this is: start with torchrun or srun, or unset it"]
        )
    return LaunchEnv(node_name=node_name)


def why_unknown(host: str) -> str | None:
    """Says why `host` has no address here; None where it has one."""
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        return reason_of(error)
    return None


def first_host(nodelist: str) -> str:
    """The first name of a Slurm node list: "gpu[07-09,12],login" gives "gpu07"."""
    head = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodelist)
    assert head is not None
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", head[0])


def tasks_per_node(compact: str) -> list[int]:
    """Slurm's "2(x3),1" spelled out: [2, 2, 2, 1]."""
    counts: list[int] = []
    for part in compact.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,6})\))?", part)
        if match is None:
            raise ConfigError(
                [f"SLURM_STEP_TASKS_PER_NODE={compact} is not of the form 2(x3),1: start with torchrun or srun"]
            )
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _from_torchrun(env: Mapping[str, str], node_name: str) -> LaunchEnv:
    rank, world_size, local_rank = _integer(env, "RANK"), _integer(env, "WORLD_SIZE"), _integer(env, "LOCAL_RANK", 0)
    # DeepSpeed's launcher gives it another name; whoever gives none may still start one process a node.
    size = next((name for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if name in env), None)
    missing = (
        "LOCAL_RANK" if "LOCAL_RANK" not in env else "LOCAL_WORLD_SIZE" if size is None and local_rank > 0 else None
    )
    if world_size > 1 and missing is not None:
        raise ConfigError(
            [
                f"RANK and WORLD_SIZE are set but {missing} is not: start with torchrun, or set all four of RANK, WORLD_SIZE, "
                "LOCAL_RANK and LOCAL_WORLD_SIZE"
            ]
        )
    return LaunchEnv(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=1 if size is None else _integer(env, size),
        node_name=node_name,
        master_addr=env.get("MASTER_ADDR", "127.0.0.1"),
        master_port=_integer(env, "MASTER_PORT", 0 if world_size == 1 else FIRST_PORT),
    )


def _is_slurm_step(env: Mapping[str, str]) -> bool:
    return (
        "SLURM_PROCID" in env
        and "SLURM_STEP_NUM_TASKS" in env
        and _integer(env, "SLURM_STEP_ID", 0) < _FIRST_SPECIAL_STEP
    )


def _from_srun(env: Mapping[str, str], node_name: str) -> LaunchEnv:
    world_size = _integer(env, "SLURM_STEP_NUM_TASKS")
    nodelist = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_NODELIST") or env.get("SLURM_JOB_NODELIST") or ""
    counts = tasks_per_node(env.get("SLURM_STEP_TASKS_PER_NODE") or str(world_size))
    node = _integer(env, "SLURM_NODEID", 0)
    # Two steps of one job must not meet on one port; job ids grow by one, so the step moves it far off.
    port = FIRST_PORT + (_integer(env, "SLURM_JOB_ID", 0) + 7919 * _integer(env, "SLURM_STEP_ID", 0)) % NUM_PORTS
    # Names need not resolve where one node is all there is.
    master = first_host(nodelist) if len(counts) > 1 else "127.0.0.1"
    return LaunchEnv(
        rank=_integer(env, "SLURM_PROCID"),
        world_size=world_size,
        local_rank=_integer(env, "SLURM_LOCALID", 0),
        local_world_size=counts[node] if node < len(counts) else counts[0],
        node_name=node_name,
        master_addr=env.get("MASTER_ADDR") or master,
        master_port=_integer(env, "MASTER_PORT", 0 if world_size == 1 else port),
    )


def _integer(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name)
    if text is None and default is not None:
        return default
    number = whole_number(text)
    if number is None:
        raise ConfigError([f"{name}={text} in the environment is not a whole number: start with torchrun or srun"])
    return number


def _checked(launch: LaunchEnv) -> LaunchEnv:
    for name, index, size in (
        ("rank", launch.rank, launch.world_size),
        ("local rank", launch.local_rank, launch.local_world_size),
    ):
        if index >= size:
            problem = f"the environment says {name} {index} of {size} processes: start with torchrun or srun"
            raise ConfigError([problem])
    if launch.world_size > 1 and not launch.master_addr:
        raise ConfigError(["the environment names no node to meet at: set MASTER_ADDR to the node of rank 0"])
    return launch
