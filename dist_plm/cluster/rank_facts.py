"""Finds what is particular to a rank: code, packages, data and device, and in what it differs from what others find."""

import hashlib
import importlib.metadata
import os
import platform
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

import dist_plm
from dist_plm.core.errors import count_of
from dist_plm.distributed.device import Device
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.monitor.formatting import size

#: A rank with so much less memory than most is named.
MEMORY_SHARE = 0.9
#: Of a file of rows, its beginning.
_HASHED_BYTES = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class RankFacts:
    """Holds what a rank finds where it is. `same` must be equal on all ranks: name -> value."""

    rank: int
    node: str
    same: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    device: str = ""
    device_id: str = ""
    memory_bytes: int = 0
    free_memory_bytes: int = 0


def facts(stores: Sequence[str], launch: LaunchEnv, device: Device, *, whole: bool) -> RankFacts:
    """Finds the facts of this rank. The slow ones, of a node, are found by its first rank alone, where the `whole` is
    asked for.

    Args:
        stores: paths of the run's data.
    """
    same = {"Python": platform.python_version()}
    packages: dict[str, str] = {}
    if whole and launch.local_rank == 0:
        packages = {d.name.lower(): d.version for d in importlib.metadata.distributions() if d.name}
        same |= {"code": _code(), "data": " ".join(_data(Path(path)) for path in stores)}
    kind, identity, total, free = _device(device)
    return RankFacts(
        rank=launch.rank,
        node=launch.node_name,
        same=same,
        packages=packages,
        device=kind,
        device_id=identity,
        memory_bytes=total,
        free_memory_bytes=free,
    )


def differing(everyone: Sequence[RankFacts]) -> Iterator[str]:
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


def shared_devices(everyone: Sequence[RankFacts]) -> Iterator[str]:
    """A sentence for each GPU that two ranks would use. Pure."""
    users: dict[tuple[str, str], list[int]] = defaultdict(list)
    for one in everyone:
        if one.device_id:
            users[one.node, one.device_id].append(one.rank)
    for (node, identity), ranks in users.items():
        if len(ranks) > 1:
            yield f"ranks {ranks} on {node} would share the GPU {identity}: start as many ranks a node as it has GPUs"


def device_table(everyone: Sequence[RankFacts]) -> list[str]:
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
    return f"CPU ({count_of(os.cpu_count() or 1, 'core')})", "", memory.total, memory.available


def _code() -> str:
    """Hashes this package's source files."""
    root = Path(dist_plm.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _data(path: Path) -> str:
    """Hashes a prepared store's manifest, or the beginning of a file of rows; of a bare pair, its index's size and that of its
    tokens, and of a saved dataset those of its files."""
    manifest = path / "manifest.json"
    if manifest.exists():
        return hashlib.sha256(manifest.read_bytes()).hexdigest()
    if path.is_file() and path.suffix not in (".bin", ".idx"):
        with path.open("rb") as file:
            return f"{path.stat().st_size},{hashlib.sha256(file.read(_HASHED_BYTES)).hexdigest()}"
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return ",".join(f"{file.relative_to(path)}:{file.stat().st_size}" for file in files)
    prefix = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
    return ",".join(str(os.stat(f"{prefix}{end}").st_size) for end in (".idx", ".bin"))


def _nodes(some: Sequence[RankFacts]) -> str:
    names = list(dict.fromkeys(one.node for one in some))
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _have(some: Sequence[RankFacts]) -> str:
    return "has" if len({one.node for one in some}) == 1 else "have"
