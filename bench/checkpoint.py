"""How fast checkpoints are written and read, and what a save in the background costs the training loop.

    python bench/checkpoint.py                              # 1 GB in the current directory, one process
    python bench/checkpoint.py --ranks 1 2 4                # the same bytes on so many processes in turn
    torchrun --nproc-per-node 2 bench/checkpoint.py --gigabytes 2 --directory /scratch

On the same disk and the same bytes, in turns: dd, torch.save, and a checkpoint of this project with its checksums, each synced
to the disk; then all three are read back. Before that they are read once and the kernel is asked to forget them: where memory
that lies idle goes back to a host, as in many virtual machines, who first needs it again pays for that, up to two seconds a
gigabyte. What a shared machine does from minute to minute falls on all alike: ratios are taken round by round, and their
median counts. Last, a loop of matrix products runs alone, with a save in flight, and beside dd writing the same bytes past the
kernel's cache, in turns as well: what dd costs it is the machine's share. Files are removed between the timed parts.

docs/performance.md has what was measured, with machines and dates.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_plm.checkpoint.fragments import ReplicaRank
from dist_plm.checkpoint.open_checkpoint import find
from dist_plm.checkpoint.retention import Retention
from dist_plm.checkpoint.saver import CheckpointWriter
from dist_plm.checkpoint.storage import LocalStorage, name_of
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.models.sharding import Shard, ShardSpec

COLUMNS = 4096
NUM_TENSORS = 24
STATES = ("weight", "exp_avg", "exp_avg_sq")
BLOCK = 4 * 2**20
#: Of the loop that a save runs beside.
STEPS = 20

Times = dict[str, list[float]]
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=Path())
    parser.add_argument("--ranks", type=int, nargs="*", help="start so many processes in turn")
    options = parser.parse_args()
    for ranks in options.ranks or ():
        common = ["--gigabytes", str(options.gigabytes), "--rounds", str(options.rounds)]
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={ranks}",
            __file__,
        ]
        subprocess.run([*torchrun, *common, "--directory", str(options.directory)], check=True)
    if options.ranks:
        return
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    store = None if size > 1 else dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    group = dist.group.WORLD
    assert group is not None
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="bench_") as own:
        where = [own]
        dist.broadcast_object_list(where, src=0)
        for line in measure(group, Path(where[0]), options.gigabytes, options.rounds):
            if rank == 0:
                print(line, flush=True)
        dist.barrier()
    dist.destroy_process_group()


def measure(group: dist.ProcessGroup, directory: Path, gigabytes: float, rounds: int) -> Iterator[str]:
    shard_specs, states = make_states(gigabytes, group.size())
    num_bytes = sum(t.numel() * 4 for _, tensors in states for t in tensors.values()) * group.size()
    yield f"{num_bytes / 1e9:.2f} GB on {group.size()} ranks, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    before = peak_bytes()
    storage = LocalStorage(directory / "checkpoints")
    place = ReplicaRank(group.rank(), group.size(), 0, 1)
    options = {"group": group, "place": place, "retention": Retention(latest=99), "on_failure": "stop"}
    writer = CheckpointWriter(storage, background=False, **options)
    warmed: Times = {}
    a_round(group, directory, writer, storage, shard_specs, states, 0, warmed)  # takes the memory for the copies
    times: Times = {}
    for number in range(1, rounds + 1):
        a_round(group, directory, writer, storage, shard_specs, states, number, times)
    yield f"first save, with fresh memory for the copies: {warmed['checkpoint save'][0]:.2f} s"
    for name, seconds in times.items():
        median = statistics.median(seconds)
        yield f"{name:<30} {median:7.2f} s  {num_bytes / 1e9 / median:6.2f} GB/s"
    for ours, theirs in (
        ("checkpoint save", "dd conv=fsync"),
        ("checkpoint save", "torch.save + fsync"),
        ("checkpoint load", "dd, reading"),
        ("checkpoint load", "torch.load"),
        ("checkpoint verify and load", "dd, reading"),
    ):
        ratios = [t / o for o, t in zip(times[ours], times[theirs], strict=True)]
        yield f"speed of {ours} / {theirs}: {statistics.median(ratios):.2f}, of {min(ratios):.2f} to {max(ratios):.2f}"
    state = num_bytes / group.size()
    yield (
        f"memory of a rank: {before / 1e9:.2f} GB with its {state / 1e9:.2f} GB of state, at most {peak_bytes() / 1e9:.2f} GB "
        "with a copy of it, and what was read"
    )
    yield from stall(CheckpointWriter(storage, background=True, **options), storage, states, rounds)


def a_round(
    group: dist.ProcessGroup,
    directory: Path,
    writer: CheckpointWriter,
    storage: LocalStorage,
    shard_specs: list[ShardSpec],
    states: list[tuple[ShardSpec, dict[str, Tensor]]],
    number: int,
    times: Times,
) -> None:
    """Everything once, in an order that turns from round to round."""
    mine = [tensors for _, tensors in states]
    num_bytes = sum(tensor.numel() * 4 for tensors in mine for tensor in tensors.values())
    zeros, saved = directory / f"dd_{group.rank()}", directory / f"torch_{group.rank()}.pt"
    step = storage.where(name_of(number))
    files = {"dd": [zeros], "torch": [saved], "ours": []}

    def timed(name: str, work: Callable[[], object]) -> None:
        dist.barrier(group=group)
        started = time.perf_counter()
        work()
        dist.barrier(group=group)
        times.setdefault(name, []).append(time.perf_counter() - started)

    writes: list[tuple[str, Callable[[], object]]] = [
        ("dd conv=fsync", lambda: run_dd("if=/dev/zero", f"of={zeros}", f"count={num_bytes // BLOCK}", "conv=fsync")),
        ("torch.save + fsync", lambda: torch_save(mine, saved)),
        ("checkpoint save", lambda: writer.save(states, train_state(number))),
    ]
    for name, work in turned(writes, number):
        timed(name, work)
    files["ours"] = sorted(Path(step).iterdir())
    reads: list[tuple[str, str, Callable[[], object]]] = [
        ("dd", "dd, reading", lambda: run_dd(f"if={zeros}", "of=/dev/null")),
        ("torch", "torch.load", lambda: torch.load(saved, weights_only=True)),
        ("ours", "checkpoint load", lambda: read_all(storage, group, shard_specs, verify=False)),
        ("ours", "checkpoint verify and load", lambda: read_all(storage, group, shard_specs, verify=True)),
    ]
    for kind, name, work in turned(reads, number):
        for file in files[kind]:
            if kind != "ours" or group.rank() == 0:
                read_through(file)
        dist.barrier(group=group)
        for file in files[kind]:
            forget(file)
        timed(name, work)
    dist.barrier(group=group)
    zeros.unlink()
    saved.unlink()
    if group.rank() == 0:
        storage.remove(name_of(number))
    dist.barrier(group=group)


def turned(items: list[T], by: int) -> list[T]:
    by %= len(items)
    return items[by:] + items[:by]


def forget(path: Path) -> None:
    """Asks the kernel to drop what it caches of a file that is on the disk."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(path: Path) -> None:
    block = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while file.readinto(block):
            pass


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_states(gigabytes: float, ranks: int) -> tuple[list[ShardSpec], list[tuple[ShardSpec, dict[str, Tensor]]]]:
    """As if the ranks were tensor ranks: each holds its rows of every logical tensor."""
    rows = max(1, round(gigabytes * 1e9 / 4 / len(STATES) / NUM_TENSORS / COLUMNS / ranks))
    rank = dist.get_rank()
    shard_specs = []
    for number in range(NUM_TENSORS):
        shard = Shard(f"w{number}", (rows * ranks, COLUMNS), (rows * rank, 0), (0, 0), (rows, COLUMNS))
        shard_specs.append(ShardSpec(nn.Parameter(torch.randn(rows, COLUMNS)), (shard,), 0, False))
    return shard_specs, [(one, {state: one.parameter.detach().clone() for state in STATES}) for one in shard_specs]


def read_all(storage: LocalStorage, group: dist.ProcessGroup, shard_specs: list[ShardSpec], *, verify: bool) -> None:
    found = find("auto", storage, group, verify=verify)
    assert found is not None
    for shard_spec in shard_specs:
        for state in STATES:
            found.read(shard_spec, state)


def train_state(step: int) -> TrainState:
    return TrainState(step=step, samples_seen=0, engine={}, stream={})


def run_dd(*arguments: str) -> None:
    subprocess.run(["dd", f"bs={BLOCK}", *arguments], check=True, capture_output=True)


def torch_save(content: object, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def stall(
    writer: CheckpointWriter, storage: LocalStorage, states: list[tuple[ShardSpec, dict[str, Tensor]]], rounds: int
) -> Iterator[str]:
    """Steps of about a tenth of a second, alone and while a save is in flight."""
    matrix = torch.randn(1024, 1024)

    def step() -> float:
        started = time.perf_counter()
        for _ in range(4):
            torch.mm(matrix, matrix)
        return time.perf_counter() - started

    for _ in range(5):
        step()
    times: Times = {}
    alone, during, beside = [], [], []
    for number in range(rounds):
        quiet = [step() for _ in range(STEPS)]
        started = time.perf_counter()
        writer.save(states, train_state(10**6 + number))
        times.setdefault("copy", []).append(time.perf_counter() - started)
        busy = [step()]
        while writer.is_saving:
            busy.append(step())
        times.setdefault("written", []).append(time.perf_counter() - started)
        writer.report()
        beside.append(beside_dd(step, Path(storage.where("dd")), states))
        alone.append(statistics.fmean(quiet))
        during.append(statistics.fmean(busy))
        if dist.get_rank() == 0:
            storage.remove(name_of(10**6 + number))
        dist.barrier()
    writer.wait()
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    longer = statistics.median([busy / quiet - 1 for busy, quiet in zip(during, alone, strict=True)])
    yield f"in the background: the copy stops the loop for {medians['copy']:.2f} s, written after {medians['written']:.2f} s"
    of_dd = statistics.median([busy / quiet - 1 for busy, quiet in zip(beside, alone, strict=True)])
    yield f"a step takes {1e3 * statistics.median(alone):.0f} ms alone, {100 * longer:+.1f} % while a save is in flight"
    yield f"{100 * of_dd:+.1f} % beside dd writing the same bytes"


def beside_dd(step: Callable[[], float], path: Path, states: list[tuple[ShardSpec, dict[str, Tensor]]]) -> float:
    """Mean seconds of a step while dd writes as many bytes as `states` hold."""
    num_bytes = sum(tensor.numel() * 4 for _, tensors in states for tensor in tensors.values())
    own = path.with_name(f"{path.name}_{dist.get_rank()}")
    command = [
        "dd",
        "if=/dev/zero",
        f"of={own}",
        f"bs={BLOCK}",
        f"count={num_bytes // BLOCK}",
        "oflag=direct",
        "conv=fsync",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as dd:
        seconds = [step()]
        while dd.poll() is None:
            seconds.append(step())
    own.unlink()
    return statistics.fmean(seconds)


if __name__ == "__main__":
    main()
