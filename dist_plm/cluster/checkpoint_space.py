"""Checks that there is room for the checkpoints of a run, and that every node can write them where they go."""

import os
import shutil
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from dist_plm.config.credentials import mask
from dist_plm.core.errors import reason_of
from dist_plm.distributed.collectives import gather, on_first
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.monitor.formatting import size
from dist_plm.spec.derived import checkpoint_bytes, most_checkpoints
from dist_plm.spec.optimizers import OptimConfig
from dist_plm.spec.schema import ModelConfig
from dist_plm.spec.schema_run import CheckpointConfig, TrainConfig

#: For a file that another node has just written to be seen.
SHARED_SECONDS = 10.0
_UNSEEN = "{} is not the directory that rank 0 writes into: mount one file system on all nodes, or set checkpoint.dir"


@dataclass(frozen=True, slots=True)
class CheckpointSpace:
    """Holds what the checkpoints of a run need and have. `free` is None on an object store."""

    url: str
    needed: int
    free: int | None

    def __str__(self) -> str:
        free = "free space not known" if self.free is None else f"{size(self.free)} free"
        return f"{mask(self.url)}, {free}, {size(self.needed)} needed"


def checkpoint_space(
    url: str, checkpoint: CheckpointConfig, model: ModelConfig, optim: OptimConfig, train: TrainConfig
) -> CheckpointSpace:
    """Tells what the checkpoints at `url` need and have; the sections are those of a finalised run."""
    if "://" in url:
        return CheckpointSpace(url, needed_bytes(checkpoint, model, optim, train, 0), None)
    there = Path(url).absolute()
    existing = len(list(there.glob("step_*[0-9]")))
    while not there.exists() and there != there.parent:
        there = there.parent
    needed = needed_bytes(checkpoint, model, optim, train, existing)
    return CheckpointSpace(url, needed, shutil.disk_usage(there).free)


def needed_bytes(
    checkpoint: CheckpointConfig, model: ModelConfig, optim: OptimConfig, train: TrainConfig, existing: int
) -> int:
    """Counts the bytes of the checkpoints that the run will keep, and the one being written, less those that lie there
    already. Pure."""
    count = most_checkpoints(checkpoint, train.stop_at or train.steps)
    if not count:
        return 0
    return max(1, count - existing) * checkpoint_bytes(model, optim, train.freeze)


def checkpoint_problems(launch: LaunchEnv, group: dist.ProcessGroup, space: CheckpointSpace) -> list[str]:
    """Tells whether each node can write where checkpoints go, sees what the others write there, and has room. Collective."""
    if "://" in space.url or space.needed == 0:
        return []
    directory = Path(space.url)
    token = on_first(group, lambda: f".preflight.{os.getpid()}.{time.time_ns()}")
    problem = None
    if launch.local_rank == 0:
        problem = _write(directory / f"{token}.{launch.rank}") or _no_room(space)
    told = gather(group, (launch.node_name, problem))
    if not any(problem for _, problem in told):
        unseen = not _appears(directory / f"{token}.0")
        told = gather(group, (launch.node_name, _UNSEEN.format(space.url) if unseen else None))
    if launch.local_rank == 0:
        _remove(directory / f"{token}.{launch.rank}")
    where: dict[str, list[str]] = defaultdict(list)
    for node, problem in told:
        if problem is not None:
            where[problem].append(node)
    return [f"on {', '.join(dict.fromkeys(nodes))}: {problem}" for problem, nodes in where.items()]


def _write(probe: Path) -> str | None:
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        _remove(probe)
        reason = reason_of(error, probe)
        return f"checkpoints cannot be written to {probe.parent} ({reason}): make room there, or set checkpoint.dir"
    return None


def _remove(probe: Path) -> None:
    with suppress(OSError):  # a read-only file system refuses even to remove what is not there
        probe.unlink()


def _no_room(space: CheckpointSpace) -> str | None:
    if space.free is None or space.free >= space.needed:
        return None
    return (
        f"{space.url} has {size(space.free)} free, and the checkpoints that the run keeps need "
        f"{size(space.needed)}: make room, lower checkpoint.keep, or set checkpoint.dir"
    )


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + SHARED_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
