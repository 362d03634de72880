"""Feeds a rank its microbatches, prepared ahead of need by worker processes.

The workers are plain subprocesses (`worker`) rather than torch's: they are not forked from a process that has
threads, CUDA and communicators, they do not import the launch script again, and without torch they start in a
fifth of a second. Worker w of N makes microbatches w, w + N, …; taking them in turn keeps the order whatever N is.
"""

import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from dist_plm.core.errors import UserError, described
from dist_plm.core.out_of_memory import MemoryGroup, memory_groups, why_killed
from dist_plm.data.loader.batch import Batch
from dist_plm.data.loader.batch_plan import BatchPlan
from dist_plm.data.loader.microbatch_builder import microbatches
from dist_plm.data.loader.skipped_samples import SkippedSamples
from dist_plm.data.samples import Arrays
from dist_plm.data.sampling.blend import Dataset

# glibc would give arrays above 128 KiB back to the system and take them anew, page by page: half of a worker's time.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**26), "MALLOC_TRIM_THRESHOLD_": str(2**27)}


class LoaderError(RuntimeError):
    """A worker process failed or died; the message carries its traceback or exit status."""


class MicrobatchLoader:
    """Iterates the microbatches of one data rank for steps [start_step, stop_step), as dicts of tensors.

    Args:
        collate: see microbatch_builder.microbatches; pickled for the workers, so it must be importable there.
        first_sample, runs: where batches differ in size; see BatchPlan.
        skipped: samples that are left out.
        num_workers: worker processes; 0 prepares each microbatch in this process when it is asked for.
        prefetch: microbatches that each worker keeps ready.
        pin_memory: hands out page-locked tensors (CUDA), so that copies to the device overlap with computation.
        trim: takes padding out of each microbatch; pickled like collate.

    Every `iter()` starts from `start_step`, with workers of its own; they stop when the iterator is used up, closed or
    forgotten. `close` stops all.

    Raises (while iterating):
        UserError: what reading or collating raised, here or in a worker.
        LoaderError: a worker raised anything else, or died.
    """

    def __init__(
        self,
        dataset: Dataset,
        collate: Callable[[Any], Arrays],
        *,
        micro_batch: int,
        global_batch: int,
        data_rank: int,
        data_size: int,
        start_step: int,
        stop_step: int,
        first_sample: int | None = None,
        runs: Sequence[tuple[int, int]] | None = None,
        skipped: SkippedSamples = SkippedSamples(),  # noqa: B008 (frozen)
        num_workers: int = 0,
        prefetch: int = 4,
        pin_memory: bool = False,
        trim: Callable[[Arrays], Arrays] | None = None,
    ) -> None:
        self.dataset, self.collate, self.trim = dataset, collate, trim
        self.plan = BatchPlan(
            start_step,
            stop_step,
            data_rank,
            global_batch=global_batch,
            micro_batch=micro_batch,
            data_size=data_size,
            first_sample=first_sample,
            runs=runs,
            skipped=skipped,
        )
        self.num_workers, self.prefetch, self.pin_memory = num_workers, prefetch, pin_memory
        self._open: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        batches = self._from_workers() if self.num_workers else self._in_process()
        self._open.add(batches)
        return batches

    def close(self) -> None:
        """Ends every iterator and its workers."""
        for batches in list(self._open):
            batches.close()

    def _in_process(self) -> Generator[Batch, None, None]:
        for arrays in microbatches(self.dataset, self.collate, self.plan, self.trim):
            yield to_tensors(arrays, self.pin_memory)

    def _from_workers(self) -> Generator[Batch, None, None]:
        count = min(self.num_workers, len(self.plan))
        message = [pickle.dumps((self.dataset, self.collate, self.plan[w::count], self.trim)) for w in range(count)]
        workers = [_Worker(m) for m in message]
        pump = _Pump(workers, len(self.plan), self.prefetch * count, self.pin_memory)
        try:
            yield from pump.batches()
        finally:
            pump.close()


def to_tensors(arrays: Arrays, pin_memory: bool) -> Batch:
    """Arrays as tensors of the same names, dtypes and shapes."""
    tensors = {name: torch.from_numpy(np.require(a, requirements=("C", "W"))) for name, a in arrays.items()}
    return {name: t.pin_memory() for name, t in tensors.items()} if pin_memory else tensors


class _Worker:
    """A worker process and the connection to it."""

    def __init__(self, message: bytes) -> None:
        ours, theirs = socket.socketpair()
        # Workers share the cores with the ranks, and see the modules that this process sees.
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        environment = {**_KEEP_MEMORY, **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        command = [sys.executable, "-P", "-m", "dist_plm.data.loader.worker", str(theirs.fileno())]
        self.groups = memory_groups()
        with theirs:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment
            )
        self.connection = Connection(ours.detach())
        with suppress(OSError):  # it died already; `receive` says how
            self.connection.send_bytes(message)

    def receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return ("died", _epitaph(self.process.wait(), self.groups))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class _Pump:
    """A thread that takes the workers' batches in turn, makes tensors of them and keeps `capacity` ready."""

    def __init__(self, workers: list[_Worker], total: int, capacity: int, pin_memory: bool) -> None:
        self.workers, self.total, self.pin_memory = workers, total, pin_memory
        self.ready: queue.Queue[Any] = queue.Queue(capacity)
        self.closed = False
        # Without it the thread would make a context on the first GPU, whichever this rank uses.
        self.device = torch.cuda.current_device() if pin_memory else None
        self.thread = threading.Thread(target=self._run, name="loader", daemon=True)
        self.thread.start()

    def batches(self) -> Generator[Batch, None, None]:
        for _ in range(self.total):
            kind, *content = self.ready.get()
            if kind == "batch":
                yield content[0]
                continue
            if kind == "died":
                raise LoaderError(
                    f"a data worker {content[0]}; where memory is short, lower data.loader_workers or data.prefetch, or ask "
                    "for more (cluster.memory)"
                )
            error, text = content
            if isinstance(error, UserError):
                raise error
            raise LoaderError(f"a data worker failed:\n{text}") from error

    def close(self) -> None:
        self.closed = True
        for worker in self.workers:
            worker.kill()
        while self.thread.is_alive():  # makes room, in case the thread waits for some
            try:
                self.ready.get(timeout=0.05)
            except queue.Empty:
                continue
        self.thread.join()
        for worker in self.workers:
            worker.connection.close()

    def _run(self) -> None:
        try:
            self._pump()
        except Exception as error:
            self.ready.put(("error", error, described(error)))

    def _pump(self) -> None:
        if self.device is not None:
            torch.cuda.set_device(self.device)
        for i in range(self.total):
            message = self.workers[i % len(self.workers)].receive()
            if self.closed:
                return
            if message[0] == "batch":
                message = ("batch", to_tensors(message[1], self.pin_memory))
            self.ready.put(message)
            if message[0] != "batch":
                return


def _epitaph(code: int, before: list[MemoryGroup]) -> str:
    if code < 0:
        return why_killed(code, before)
    return f"ended early with exit code {code}"
