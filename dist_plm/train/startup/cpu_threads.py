"""Gives each rank on a CPU as many threads as there are cores for it, where the user says nothing.

PyTorch by itself takes all cores in every rank, and torchrun gives one to each of several. A user says something by
OMP_NUM_THREADS; torchrun sets that too, which shows in its own environment: what it began with has none.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from dist_plm.core.errors import count_of
from dist_plm.distributed.collectives import gather
from dist_plm.distributed.device import Device

log = logging.getLogger(__name__)

_NAME = "OMP_NUM_THREADS"


def choose_threads(environ: Mapping[str, str], node: str, device: Device, group: dist.ProcessGroup) -> None:
    """Sets the number of this rank's threads. Collective over `group`, all ranks.

    Args:
        node: the name of this rank's.
    """
    if device.kind != "cpu":
        return
    of_all = gather(group, (node, _cores()))
    if is_set_by_user(environ):
        return
    threads = share_of(of_all[group.rank()][1], [cores for name, cores in of_all if name == node])
    torch.set_num_threads(threads)
    log.info("%s of the CPU for each rank; %s=N sets another number", count_of(threads, "thread"), _NAME)


def _cores() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def share_of(own: Sequence[int], of_all: Sequence[Sequence[int]]) -> int:
    """Counts the cores of a rank, each divided by the ranks that may use it; one at least.

    Args:
        of_all: the cores of each rank on the node.
    """
    sharers = {core: sum(core in cores for cores in of_all) for core in own}
    return max(1, int(sum(1.0 / number for number in sharers.values()) + 1e-6))


def is_set_by_user(environ: Mapping[str, str], processes: Path = Path("/proc")) -> bool:
    """Tells whether the number of threads is the user's choice, rather than torchrun's."""
    if _NAME not in environ:
        return False
    if environ[_NAME] != "1" or "TORCHELASTIC_RUN_ID" not in environ:
        return True
    try:
        begun_with = (processes / str(os.getppid()) / "environ").read_bytes()
    except OSError:
        return True
    return any(entry.startswith(f"{_NAME}=".encode()) for entry in begun_with.split(b"\0"))
