"""Real ranks for tests, on gloo, or on NCCL where there are GPUs: processes that run one case after another.

A case is a function of a test module, called as `fn(world, *args)` on each of n ranks of a fresh process group::

    def total(world, value):
        tensor = torch.tensor([value + world.rank])
        dist.all_reduce(tensor)
        return tensor.item()

    def test_total(ranks):
        assert ranks.run(2, total, 10) == [21, 21]

Ranks are forked from a server that has imported PyTorch and Megatron-core already, so new ones cost next to nothing.
There are new ones after a case that failed, which may leave anything behind, and after one that left threads behind.
"""

import atexit
import contextlib
import faulthandler
import gc
import multiprocessing.connection
import os
import pickle
import queue
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from dist_plm.distributed.device import Device, choose
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.distributed.world import init_process_group, leave
from tests.ranks.server import context_of

#: How long the other ranks have to fail too, once one has: its closed connections end their collectives.
GRACE_SECONDS = 30.0
#: For the stacks of hung ranks to be written, at most.
STACKS_SECONDS = 30.0
#: For the imports, on a machine that is busy with other things.
START_SECONDS = 300.0
_READY = b"ready"
#: The last line of the stacks of a rank: where what forked it began.
_MAIN = b"in <module>\n"
#: Of a thread that is ending, in its flags (linux/sched.h).
_PF_EXITING = 4


@dataclass(frozen=True, slots=True)
class World:
    """What a case knows of the rank it runs on. The default process group of `size` ranks exists."""

    rank: int
    size: int
    device: Device


@dataclass(frozen=True, slots=True)
class _Case:
    number: int
    size: int
    timeout_seconds: float
    store_port: int
    shared_memory: bool
    call: bytes  # pickled (fn, args)


@dataclass(frozen=True, slots=True)
class _Report:
    """Of one rank: the pickled result, or what went wrong and when, by the clock that all processes share."""

    result: bytes | None = None
    failure: str = ""
    failed_at: float = field(default_factory=time.monotonic)
    left_threads: bool = False


@dataclass(frozen=True, slots=True)
class _Worker:
    process: Any
    connection: Any
    log: Path


class RanksError(AssertionError):
    """A case failed: the message holds what each failed rank has to say, the first to fail first."""


class RankPool:
    """Up to `size` rank processes on a kind of device, started when first needed."""

    def __init__(
        self, size: int = 4, timeout_seconds: float = 600.0, *, device: Literal["cpu", "cuda"] = "cpu"
    ) -> None:
        self._size, self._device = size, device
        self._timeout_seconds = timeout_seconds
        self._workers: list[_Worker] = []
        self._num_cases = 0
        self._logs = tempfile.TemporaryDirectory(prefix="ranks_")
        # The meeting place of every case; a port of its own, so pools do not meet each other.
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        # Before multiprocessing's own exit handler, which would wait for the processes for ever.
        atexit.register(self.close)

    def run(
        self,
        size: int,
        fn: Callable[..., Any],
        *args: Any,
        timeout_seconds: float | None = None,
        shared_memory: bool = True,
    ) -> list[Any]:
        """Call `fn(world, *args)` on `size` ranks, as those of one machine or, without shared memory, of several, and return
        their results by rank.

        Raises:
            RanksError: a rank raised, died, or was not done in time.
        """
        __tracebackhide__ = True  # the ranks' own tracebacks are what a reader looks for
        assert 1 <= size <= self._size, f"the pool has at most {self._size} ranks, not {size}"
        timeout = self._timeout_seconds if timeout_seconds is None else timeout_seconds
        self._num_cases += 1
        case = _Case(self._num_cases, size, timeout, self._store.port, shared_memory, pickle.dumps((fn, args)))
        try:
            self._start(size)
            for worker in self._workers[:size]:
                worker.log.write_bytes(b"")
                worker.connection.send_bytes(pickle.dumps(case))
            reports = self._collect(size, timeout)
            if any(report.failure for report in reports.values()):
                raise RanksError(self._describe(fn, reports))
            if any(report.left_threads for report in reports.values()):
                self._kill()
            return [pickle.loads(reports[rank].result or b"") for rank in range(size)]
        except BaseException:
            self._kill()
            raise

    def close(self) -> None:
        """End all processes."""
        atexit.unregister(self.close)
        self._kill()
        self._logs.cleanup()

    def _start(self, size: int) -> None:
        context = context_of(self._device)
        num_running = len(self._workers)
        for rank in range(num_running, size):
            ours, theirs = context.Pipe()
            log = Path(self._logs.name) / f"rank_{rank}_{self._num_cases}.log"
            process = context.Process(target=_serve, args=(rank, theirs, log, self._device), name=f"rank_{rank}")
            process.start()
            theirs.close()
            self._workers.append(_Worker(process, ours, log))
        for worker in self._workers[num_running:]:
            assert worker.connection.poll(START_SECONDS), "a rank process does not start"
            assert worker.connection.recv_bytes() == _READY

    def _collect(self, size: int, timeout_seconds: float) -> dict[int, _Report]:
        """Reports by rank; ranks that are late get one that says so, and their stacks go to their output."""
        deadline = time.monotonic() + timeout_seconds
        reports: dict[int, _Report] = {}
        while waiting := {self._workers[r].connection: r for r in range(size) if r not in reports}:
            ready: list[Any] = multiprocessing.connection.wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                return reports | self._late(list(waiting.values()))
            for rank in (waiting[connection] for connection in ready):
                try:
                    reports[rank] = pickle.loads(self._workers[rank].connection.recv_bytes())
                except (EOFError, ConnectionResetError):
                    self._workers[rank].process.join()
                    code = self._workers[rank].process.exitcode
                    reports[rank] = _Report(failure=f"the process died with exit code {code}\n")
                if reports[rank].failure:
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        return reports

    def _late(self, ranks: list[int]) -> dict[int, _Report]:
        before = {rank: self._workers[rank].log.stat().st_size for rank in ranks}
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._workers[rank].process.pid, signal.SIGUSR1)
        deadline = time.monotonic() + STACKS_SECONDS
        while any(not self._has_stacks(rank, size) for rank, size in before.items()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return {rank: _Report(failure="not done in time; where it was stands in its output\n") for rank in ranks}

    def _has_stacks(self, rank: int, before: int) -> bool:
        """Whether the stack of the main thread, which comes last, is in the rank's output since it had `before` bytes."""
        return _MAIN in self._workers[rank].log.read_bytes()[before:]

    def _describe(self, fn: Callable[..., Any], reports: dict[int, _Report]) -> str:
        failed = sorted((rank for rank in reports if reports[rank].failure), key=lambda rank: reports[rank].failed_at)
        name = f"{fn.__module__}.{fn.__qualname__}"
        parts = [f"{name} failed on {len(failed)} of {len(reports)} ranks, the first to fail first"]
        for rank in failed:
            parts.append(f"--- rank {rank}\n{reports[rank].failure}")
            if output := self._workers[rank].log.read_text(errors="replace").strip():
                parts.append(f"--- rank {rank}, end of its output\n{output[-4000:]}\n")
        return "\n".join(parts)

    def _kill(self) -> None:
        for worker in self._workers:
            # Each rank leads a process group, so helpers that it started die with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signal.SIGKILL)
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
        self._workers.clear()


def _serve(rank: int, connection: Connection, log: Path, kind: Literal["cpu", "cuda"]) -> None:
    """The life of a rank process: cases come in over `connection`, reports go out."""
    os.setpgid(0, 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    torch.set_num_threads(1)
    device = choose(kind, rank)
    # What the imports left behind stays; going through it after each case would take most of the time.
    gc.freeze()
    connection.send_bytes(_READY)
    cases: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, cases), daemon=True).start()
    num_threads = _num_threads()
    while True:
        report = _run_case(pickle.loads(cases.get()), rank, device)
        # Groups that cannot be collected (Megatron-core's gradient buffers hold theirs in a cycle through C++) keep a
        # thread each that wakes a hundred times a second: hundreds of them would take the machine.
        # CUDA keeps threads of its own, and takes seconds to begin anew.
        left_threads = kind == "cpu" and _num_threads() > num_threads
        connection.send_bytes(pickle.dumps(replace(report, left_threads=left_threads)))


def _num_threads() -> int:
    """Of this process. One that was waited for has ended for its process, but counts for the kernel until it has gone."""
    found = 0
    for stat in Path("/proc/self/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            found += not int(stat.read_text().rpartition(")")[2].split()[6]) & _PF_EXITING
    return found


def _receive(connection: Connection, cases: "queue.SimpleQueue[bytes]") -> None:
    """Take cases in a thread of its own, so that a rank that hangs still notices when the tests are gone."""
    while True:
        try:
            cases.put(connection.recv_bytes())
        except (EOFError, OSError):
            os.killpg(0, signal.SIGKILL)


def _run_case(case: _Case, rank: int, device: Device) -> _Report:
    torch.manual_seed(0)
    try:
        report = _Report(result=pickle.dumps(_call(case, rank, device)))
    # Whatever a case raises, KeyboardInterrupt and pytest's own exceptions too, is its result.
    except BaseException as error:
        report = _Report(failure=traceback.format_exc())
        # The frames hold process groups, which close their connections, and so free waiting ranks, only when collected.
        traceback.clear_frames(error.__traceback__)
    leave()
    gc.collect()
    return report


def _call(case: _Case, rank: int, device: Device) -> Any:
    launch = LaunchEnv(rank=rank, world_size=case.size, local_rank=rank, local_world_size=case.size)
    # Longer than the case may take: its end comes from the pool, which tells where each rank was.
    timeout = timedelta(seconds=10 * case.timeout_seconds)
    client = TCPStore("127.0.0.1", case.store_port, is_master=False, wait_for_workers=False)
    store = PrefixStore(f"case{case.number}", client)
    init_process_group(launch, device, timeout, store=store, shared_memory=case.shared_memory)
    fn, args = pickle.loads(case.call)
    result = fn(World(rank=rank, size=case.size, device=device), *args)
    if dist.is_initialized():
        # A rank that leaves while another still receives would reset the connection. Where the barrier fails, another
        # rank has failed, and tells why.
        with contextlib.suppress(RuntimeError):
            dist.barrier()
    return result
