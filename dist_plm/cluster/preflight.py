"""Can the run start where it is? Asked by all ranks together before anything is built; what is wrong on one node is told
once, for all, and costs seconds instead of hours."""

import time

import torch.distributed as dist

from dist_plm.cluster import bandwidth
from dist_plm.cluster.checkpoint_space import checkpoint_problems, checkpoint_space
from dist_plm.cluster.rank_facts import device_table, differing, facts, shared_devices
from dist_plm.config.decode import encode
from dist_plm.core.errors import PreflightError
from dist_plm.distributed.collectives import gather
from dist_plm.distributed.device import Device
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.monitor.progress import say
from dist_plm.spec.derived import checkpoints_of
from dist_plm.spec.schema import TrainingConfig
from dist_plm.train.startup.start import other_settings


def look(config: TrainingConfig, launch: LaunchEnv, device: Device, host: dist.ProcessGroup) -> None:
    """The first seconds of a run. On several nodes it looks at everything and tells what it found, on one it only makes
    sure of the checkpoints. Collective.

    Raises:
        PreflightError: on every rank, with all that is wrong.
    """
    if config.cluster.preflight:
        several = launch.local_world_size < launch.world_size
        lines = preflight(config, launch, device, host, whole=several)
        if launch.rank == 0 and several:
            say("\n".join(lines))


def preflight(
    config: TrainingConfig, launch: LaunchEnv, device: Device, host: dist.ProcessGroup, *, whole: bool
) -> list[str]:
    """Lines for people that tell what was found. Collective over all ranks.

    Args:
        host: all ranks on gloo.
        whole: compares nodes and measures the links between ranks, too.
    Raises:
        PreflightError: on every rank, with all that is wrong.
    """
    began = time.monotonic()
    everyone = gather(host, facts(config.data.paths, launch, device, whole=whole))
    url = checkpoints_of(config.run, config.checkpoint)
    space = checkpoint_space(url, config.checkpoint, config.model, config.optim, config.train)
    unequal = other_settings(encode(config), launch, host)
    problems = [
        *([unequal] if unequal else []),
        *differing(everyone),
        *shared_devices(everyone),
        *checkpoint_problems(launch, host, space),
    ]
    if problems:
        raise PreflightError(problems)
    if not whole:
        return []
    lines = [f"checkpoints: {space}", *device_table(everyone)]
    if len(everyone) > 1:
        lines += bandwidth.measure(device, [one.node for one in everyone])
    nodes, first = len({one.node for one in everyone}), everyone[0]
    return [
        f"preflight: {_count(nodes, 'node')}, {_count(len(everyone), 'rank')}, {time.monotonic() - began:.1f} s",
        f"  the same everywhere: code {first.same['code'][:8]}, configuration, data, {len(first.packages)} packages, "
        f"Python {first.same['Python']}",
        *(f"  {line}" for line in lines),
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
