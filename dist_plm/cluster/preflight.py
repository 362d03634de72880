"""Can the run start where it is? Asked by all ranks together before anything is built; what is wrong on one node is told
once, for all, and costs seconds instead of hours."""

import hashlib
import importlib.metadata
import math
import os
import platform
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

import dist_plm
from dist_plm.cluster import bandwidth
from dist_plm.config import runfile
from dist_plm.config.credentials import mask
from dist_plm.core.errors import PreflightError, reason_of
from dist_plm.distributed.collectives import gather, on_first
from dist_plm.distributed.device import Device
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.distributed.world import host_group
from dist_plm.monitor.formatting import size
from dist_plm.monitor.progress import say
from dist_plm.spec.derived import checkpoints_of
from dist_plm.spec.families.tensors import tensors_of
from dist_plm.spec.optimizers import OptimConfig
from dist_plm.spec.schema import ModelConfig, TrainingConfig
from dist_plm.spec.schema_run import CheckpointConfig

#: Of a number in a checkpoint.
FP32_BYTES = 4
#: For a file that another node has just written to be seen.
SHARED_SECONDS = 10.0
#: A rank with so much less memory than most is named.
MEMORY_SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Holds what a rank finds where it is. `same` must be equal on all ranks: name -> value."""

    rank: int
    node: str
    same: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    device: str = ""
    device_id: str = ""
    memory_bytes: int = 0
    free_memory_bytes: int = 0


def look(config: TrainingConfig, launch: LaunchEnv, device: Device) -> None:
    """The first seconds of a run. On several nodes it looks at everything and tells what it found, on one it only makes
    sure of the checkpoints. Collective.

    Raises:
        PreflightError: on every rank, with all that is wrong.
    """
    if config.cluster.preflight:
        several = launch.local_world_size < launch.world_size
        lines = preflight(config, launch, device, whole=several)
        if launch.rank == 0 and several:
            say("\n".join(lines))


def preflight(config: TrainingConfig, launch: LaunchEnv, device: Device, *, whole: bool) -> list[str]:
    """Lines for people that tell what was found. Collective over all ranks.

    Args:
        whole: compares nodes and measures the links between ranks, too.
    Raises:
        PreflightError: on every rank, with all that is wrong.
    """
    began = time.monotonic()
    group = host_group(timedelta(minutes=config.cluster.timeout_minutes))
    mine = facts(runfile.text(config), config.data.paths, launch, device, whole=whole)
    everyone = gather(group, mine)
    url = checkpoints_of(config.run, config.checkpoint)
    space = _space(url, config.checkpoint, config.model, config.optim)
    problems = [*differing(everyone), *shared_devices(everyone), *_checkpoints(launch, group, space)]
    if problems:
        raise PreflightError(problems)
    if not whole:
        return []
    lines = [f"checkpoints: {space}", *_table(everyone)]
    if len(everyone) > 1:
        lines += bandwidth.measure(device, [one.node for one in everyone])
    nodes, first = len({one.node for one in everyone}), everyone[0]
    return [
        f"preflight: {_count(nodes, 'node')}, {_count(len(everyone), 'rank')}, {time.monotonic() - began:.1f} s",
        f"  the same everywhere: code {first.same['code'][:8]}, configuration, data, {len(first.packages)} packages, "
        f"Python {first.same['Python']}",
        *(f"  {line}" for line in lines),
    ]


def facts(configuration: str, stores: Sequence[str], launch: LaunchEnv, device: Device, *, whole: bool) -> Facts:
    """Finds the facts of this rank. The slow ones, of a node, are found by its first rank alone, where the `whole` is
    asked for.

    Args:
        configuration: the text of the run's.
        stores: paths of its data.
    """
    same = {"configuration": _digest(configuration), "Python": platform.python_version()}
    packages: dict[str, str] = {}
    if whole and launch.local_rank == 0:
        packages = {d.name.lower(): d.version for d in importlib.metadata.distributions() if d.name}
        same |= {"code": _code(), "data": " ".join(_data(Path(path)) for path in stores)}
    kind, identity, total, free = _device(device)
    return Facts(
        rank=launch.rank,
        node=launch.node_name,
        same=same,
        packages=packages,
        device=kind,
        device_id=identity,
        memory_bytes=total,
        free_memory_bytes=free,
    )


def differing(everyone: Sequence[Facts]) -> Iterator[str]:
    """A sentence for each fact that is another than on rank 0. Pure."""
    first = everyone[0]
    for name, value in first.same.items():
        others = [one for one in everyone if one.same.get(name, value) != value]
        if others:
            yield (
                f"{name} is not the same everywhere: {_nodes(others)} {_have(others)} another than {first.node}, rank 0: "
                "install and mount the same on all nodes, and start all ranks with one command"
            )
    for one in everyone:
        if not one.packages or one.packages == first.packages:
            continue
        names = sorted(first.packages.keys() | one.packages.keys())
        changed = [n for n in names if first.packages.get(n) != one.packages.get(n)]
        told = ", ".join(
            f"{n} {one.packages.get(n, 'absent')} ({first.packages.get(n, 'absent')})" for n in changed[:5]
        )
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        yield f"Python packages on {one.node} are others than on {first.node} (in brackets): {told}{more}: install the same"


def shared_devices(everyone: Sequence[Facts]) -> Iterator[str]:
    """A sentence for each GPU that two ranks would use. Pure."""
    users: dict[tuple[str, str], list[int]] = defaultdict(list)
    for one in everyone:
        if one.device_id:
            users[one.node, one.device_id].append(one.rank)
    for (node, identity), ranks in users.items():
        if len(ranks) > 1:
            yield f"ranks {ranks} on {node} would share the GPU {identity}: start as many ranks a node as it has GPUs"


def needed_bytes(checkpoint: CheckpointConfig, model: ModelConfig, optim: OptimConfig, existing: int) -> int:
    """Counts the bytes of the checkpoints that the run will keep, and the one being written, less those that lie there
    already. Pure."""
    if checkpoint.every == 0 and not checkpoint.at_end:
        return 0
    count = max(1, checkpoint.keep + 1 - existing) if checkpoint.every else 1
    return count * checkpoint_bytes(model, optim)


def checkpoint_bytes(model: ModelConfig, optim: OptimConfig) -> int:
    """Counts the bytes of one checkpoint: weights, and what the optimizer remembers of each."""
    tensors = tensors_of(model)
    moments = [moment for tensor in tensors for moment in optim.moments(tensor.name, tensor.shape).values()]
    return FP32_BYTES * sum(math.prod(shape) for shape in (*(tensor.shape for tensor in tensors), *moments))


@dataclass(frozen=True, slots=True)
class _Space:
    """`free` is None on an object store."""

    url: str
    needed: int
    free: int | None

    def __str__(self) -> str:
        free = "free space not known" if self.free is None else f"{size(self.free)} free"
        return f"{mask(self.url)}, {free}, {size(self.needed)} needed"


def _space(url: str, checkpoint: CheckpointConfig, model: ModelConfig, optim: OptimConfig) -> _Space:
    """Tells what the checkpoints at `url` need and have."""
    if "://" in url:
        return _Space(url, needed_bytes(checkpoint, model, optim, 0), None)
    there = Path(url).absolute()
    existing = len(list(there.glob("step_*[0-9]")))
    while not there.exists() and there != there.parent:
        there = there.parent
    return _Space(url, needed_bytes(checkpoint, model, optim, existing), shutil.disk_usage(there).free)


def _checkpoints(launch: LaunchEnv, group: dist.ProcessGroup, space: _Space) -> list[str]:
    """Whether each node can write where checkpoints go, sees what the others write there, and has room. Collective."""
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
        (directory / f"{token}.{launch.rank}").unlink(missing_ok=True)
    where: dict[str, list[str]] = defaultdict(list)
    for node, problem in told:
        if problem is not None:
            where[problem].append(node)
    return [f"on {', '.join(dict.fromkeys(nodes))}: {problem}" for problem, nodes in where.items()]


_UNSEEN = "{} is not the directory that rank 0 writes into: mount one file system on all nodes, or set checkpoint.dir"


def _write(probe: Path) -> str | None:
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        with probe.open("wb") as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if probe.parent.is_dir():
            probe.unlink(missing_ok=True)
        reason = reason_of(error, probe)
        return f"checkpoints cannot be written to {probe.parent} ({reason}): make room there, or set checkpoint.dir"
    return None


def _no_room(space: _Space) -> str | None:
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


def _table(everyone: Sequence[Facts]) -> list[str]:
    """Devices of each node, and ranks with less memory than most."""
    lines = []
    for device, count in Counter(one.device for one in everyone).items():
        nodes = [one for one in everyone if one.device == device]
        memory = min(one.free_memory_bytes for one in nodes)
        lines.append(f"devices: {count} x {device} on {_nodes(nodes)}, at least {size(memory)} free")
    typical = sorted(one.free_memory_bytes for one in everyone)[len(everyone) // 2]
    lines += [
        f"warning: rank {one.rank} on {one.node} has {size(one.free_memory_bytes)} free, most {size(typical)}"
        for one in everyone
        if one.device_id and one.free_memory_bytes < MEMORY_SHARE * typical
    ]
    return lines


def _device(device: Device) -> tuple[str, str, int, int]:
    """Its kind, what tells it from others of the node (nothing for CPUs), bytes of memory in all and free."""
    if device.kind == "cuda":
        properties = torch.cuda.get_device_properties(device.torch_device)
        free, total = torch.cuda.mem_get_info(device.torch_device)
        return properties.name, str(getattr(properties, "uuid", device.torch_device)), total, free
    memory = psutil.virtual_memory()
    return f"CPU ({os.cpu_count()} cores)", "", memory.total, memory.available


def _code() -> str:
    """Hashes this package's source files."""
    root = Path(dist_plm.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _data(path: Path) -> str:
    """Hashes a prepared store's manifest; of a bare pair, its index's size and that of its tokens."""
    manifest = path / "manifest.json"
    if manifest.exists():
        return hashlib.sha256(manifest.read_bytes()).hexdigest()
    prefix = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
    return ",".join(str(os.stat(f"{prefix}{end}").st_size) for end in (".idx", ".bin"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _nodes(some: Sequence[Facts]) -> str:
    names = list(dict.fromkeys(one.node for one in some))
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _have(some: Sequence[Facts]) -> str:
    return "has" if len({one.node for one in some}) == 1 else "have"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
