"""How fast checkpoints are written and read, and what a save in the background costs the training loop.

    python bench/checkpoint.py                              # 1 GB in the current directory, one process
    torchrun --nproc-per-node 2 bench/checkpoint.py --gigabytes 2 --directory /scratch

In one run, on the same disk and the same bytes: dd (conv=fsync), torch.save with fsync, and a checkpoint of this project
(checksums included); then reading them back; the median of some rounds, of all ranks together. Last, a loop of matrix
products runs with and without a save in flight. Writing goes to the disk, reading mostly comes from memory that caches it.
"""

import argparse
import functools
import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_plm.checkpoint.fragments import Place
from dist_plm.checkpoint.manifest import Manifest
from dist_plm.checkpoint.reading import Checkpoint, find
from dist_plm.checkpoint.retention import Retention
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.checkpoint.writing import CheckpointWriter
from dist_plm.models.layout import Layout, Piece

COLUMNS = 4096
NUM_TENSORS = 24
STATES = ("weight", "exp_avg", "exp_avg_sq")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path())
    options = parser.parse_args()
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
    layouts, states = make_states(gigabytes, group.size())
    num_bytes = sum(t.numel() * 4 for _, tensors in states for t in tensors.values()) * group.size()
    yield f"{num_bytes / 1e9:.2f} GB on {group.size()} ranks"
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        dist.barrier(group=group)
        started = time.perf_counter()
        work()
        dist.barrier(group=group)
        times.setdefault(name, []).append(time.perf_counter() - started)

    file = directory / f"torch_{group.rank()}.pt"
    place = Place(group.rank(), group.size(), 0, 1)
    storage = LocalStorage(directory / "checkpoints")
    options = {"group": group, "place": place, "retention": Retention(latest=1), "on_failure": "stop"}
    writer = CheckpointWriter(storage, background=False, **options)
    timed("first checkpoint", lambda: writer.save(states, manifest(0)))  # it takes the memory for the copies
    # In turns, as the speed of a shared disk changes from minute to minute.
    for number in range(1, rounds + 1):
        timed("dd conv=fsync", lambda: run_dd(directory / f"dd_{group.rank()}", num_bytes // group.size()))
        timed("torch.save + fsync", lambda: torch_save([tensors for _, tensors in states], file))
        timed("torch.load", lambda: torch.load(file, weights_only=True))
        file.unlink()
        timed("checkpoint save", functools.partial(writer.save, states, manifest(number)))
        timed("checkpoint verify", lambda: find("auto", storage, group))
        found = find("auto", storage, group, verify=False)
        assert found is not None
        timed("checkpoint load", functools.partial(read_all, found, layouts))
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in medians.items():
        yield f"{name:<20} {seconds:7.2f} s  {num_bytes / 1e9 / seconds:6.2f} GB/s"
    yield f"save / dd = {medians['dd conv=fsync'] / medians['checkpoint save']:.2f}"
    yield f"peak memory of a rank: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"
    background = CheckpointWriter(storage, background=True, **options)
    yield from stall(background, states)


def make_states(gigabytes: float, ranks: int) -> tuple[list[Layout], list[tuple[Layout, dict[str, Tensor]]]]:
    """As if the ranks were tensor ranks: each holds its rows of every logical tensor."""
    rows = max(1, round(gigabytes * 1e9 / 4 / len(STATES) / NUM_TENSORS / COLUMNS / ranks))
    rank = dist.get_rank()
    layouts = []
    for number in range(NUM_TENSORS):
        piece = Piece(f"w{number}", (rows * ranks, COLUMNS), (rows * rank, 0), (0, 0), (rows, COLUMNS))
        layouts.append(Layout(nn.Parameter(torch.randn(rows, COLUMNS)), (piece,), 0, False))
    return layouts, [(one, {state: one.parameter.detach().clone() for state in STATES}) for one in layouts]


def read_all(found: Checkpoint, layouts: list[Layout]) -> None:
    for layout in layouts:
        for state in STATES:
            found.read(layout, state)


def manifest(step: int) -> Manifest:
    return Manifest(step=step, samples_seen=0, engine={}, stream={})


def run_dd(path: Path, num_bytes: int) -> None:
    block = 4 * 2**20
    command = ["dd", "if=/dev/zero", f"of={path}", f"bs={block}", f"count={num_bytes // block}", "conv=fsync"]
    subprocess.run(command, check=True, capture_output=True)
    path.unlink()


def torch_save(content: object, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def stall(writer: CheckpointWriter, states: list[tuple[Layout, dict[str, Tensor]]]) -> Iterator[str]:
    """Steps of about a tenth of a second, alone and while a save is in flight."""
    matrix = torch.randn(1024, 1024)

    def step() -> float:
        started = time.perf_counter()
        for _ in range(4):
            torch.mm(matrix, matrix)
        return time.perf_counter() - started

    for _ in range(5):
        step()
    alone = [step() for _ in range(20)]
    started = time.perf_counter()
    writer.save(states, manifest(10**6))
    copied = time.perf_counter() - started
    busy = [step()]
    while writer.is_saving:
        busy.append(step())
    writer.wait()
    written = time.perf_counter() - started
    before, during = statistics.median(alone), statistics.fmean(busy)
    yield f"background: copy {copied:.2f} s, then written in {written - copied:.2f} s during {len(busy)} steps"
    yield f"a step takes {1e3 * before:.0f} ms alone, {1e3 * during:.0f} ms while a save is in flight"


if __name__ == "__main__":
    main()
