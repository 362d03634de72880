"""The processes that share one preparation: ranks of torchrun or srun, which meet in a shared directory and nowhere else.

Each does every N-th task and waits for the files of the others; what has to be decided once, rank 0 decides and writes.
A rank shows that it lives by a file that it rewrites, so that waiting ends with a reason where another one is gone.
"""

import json
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from heapq import nsmallest
from pathlib import Path
from typing import Protocol, TypeVar

from dist_plm.core.errors import DataError, described
from dist_plm.core.files import atomic_writer
from dist_plm.core.streams import tell
from dist_plm.data.prepare.pool import Pool
from dist_plm.data.prepare.task_progress import following, progress_bar
from dist_plm.distributed.launch_env import LaunchEnv

_BEAT_SECONDS = 1.0
_SHORTEST_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.02, 1.0
#: After which a rank that nothing was seen of is told of.
_ABSENT_SECONDS = 10.0
#: Ranks that a rank looks at in one poll, by turns: if each read the files of all, a network file system would do nothing else.
_LOOKED_AT = 16
_WORKING, _DONE = "working", "done"


class WorkItem(Protocol):
    """A piece of work that ends in files; frozen, so that it can be sent to a process."""

    @property
    def is_complete(self) -> bool: ...

    @property
    def num_bytes(self) -> int:
        """About how much work it is."""
        ...


T = TypeVar("T", bound=WorkItem)


class WorkerGroup:
    """One rank's view of all.

    Args:
        workers: processes that each rank runs its tasks in.
        patience_seconds: how long another rank may show no sign of life.
    """

    def __init__(self, launch: LaunchEnv, workers: int, patience_seconds: float) -> None:
        self.rank, self.world_size = launch.rank, launch.world_size
        self._node, self._patience_seconds = launch.node_name, patience_seconds
        self._pool = Pool(workers)
        self._folder: Path | None = None
        self._state = _WORKING
        self._has_told = False

    @contextmanager
    def at_work(self, folder: Path) -> Iterator[None]:
        """While the block lasts, `folder` says of this rank that it lives and, where the block raises, why it ended.

        At the block's end rank 0 waits until all are done and removes the folder, and the others wait for that.
        """
        try:
            with self._beating(folder):
                yield
        finally:
            self._pool.close()

    @contextmanager
    def _beating(self, folder: Path) -> Iterator[None]:
        if self.world_size == 1:
            yield
            return
        self._folder, self._state = folder, _WORKING
        if self.rank == 0:
            if folder.exists():
                shutil.rmtree(folder)  # of an interrupted run
            folder.mkdir()
        ended = threading.Event()
        heart = threading.Thread(target=self._beat, args=(ended,), daemon=True)
        heart.start()
        try:
            yield
            self._state = _DONE
            self._part()
        except BaseException as error:
            self._state = described(error)
            raise
        finally:
            ended.set()
            heart.join()

    def run(self, function: Callable[[T], None], tasks: Sequence[T], label: str) -> tuple[int, float]:
        """Runs `function` on all tasks that are not complete, each on one rank; returns when all of them are.

        Returns:
            the bytes of this rank's tasks that were not complete, and the seconds that all took.
        """
        began = time.perf_counter()
        sizes = [task.num_bytes for task in tasks]
        todo = [i for i, task in enumerate(tasks) if not task.is_complete]
        mine = [i for i in todo if i % self.world_size == self.rank]
        others = {rank: deque[int]() for rank in range(self.world_size) if rank != self.rank}
        for i in todo:
            if i % self.world_size in others:
                others[i % self.world_size].append(i)
        bar = progress_bar(label, sum(sizes), hidden=self.rank != 0)
        with bar, following(bar, self._pool.bytes_read) as finished:
            finished(sum(sizes) - sum(sizes[i] for i in todo))
            places = {id(tasks[i]): i for i in mine}
            self._pool.run(function, [tasks[i] for i in mine], lambda task: finished(sizes[places[id(task)]]))

            def owed() -> set[int]:
                # Only the first task of each rank that is not done is looked for: a rank does its tasks in about this order,
                # and if every rank looked for all of them each second, a network file system would do nothing else.
                for left in others.values():
                    while left and tasks[left[0]].is_complete:
                        finished(sizes[left.popleft()])
                return {rank for rank, left in others.items() if left}

            self.wait(owed, f"its share of {label!r}")
        return sum(sizes[i] for i in mine), time.perf_counter() - began

    def lead(self, path: Path, make: Callable[[], object]) -> None:
        """Has rank 0 make the file at `path`, unless it is there."""
        if self.rank == 0:
            if not path.exists():
                make()
        else:
            self.wait(lambda: () if path.exists() else (0,), path.name)

    def wait(self, owing: Callable[[], Collection[int]], what: str, stale: str = "") -> None:
        """Waits until `owing` names no rank any more. A rank of which no more is seen than `stale` has not begun.

        Raises:
            DataError: a rank that is waited for ended, or showed no sign of life for too long.
        """
        seen: dict[int, tuple[str, float]] = {}
        looked: dict[int, float] = {}
        pause = _SHORTEST_POLL_SECONDS
        while ranks := owing():
            for rank in nsmallest(_LOOKED_AT, ranks, key=lambda rank: looked.get(rank, 0.0)):
                content, state = self._look(rank)
                looked[rank] = time.monotonic()
                if rank not in seen or seen[rank][0] != content:
                    seen[rank] = (content, time.monotonic())
                if state not in ("", _WORKING, _DONE) and content != stale:
                    raise DataError(f"rank {rank} ended ({state}), and rank {self.rank} waits for {what}; start again")
                silent_seconds = time.monotonic() - seen[rank][1]
                if content in ("", stale) and silent_seconds > _ABSENT_SECONDS:
                    self._tell_absent(rank)
                if silent_seconds > self._patience_seconds:
                    self._give_up(rank, content, what)
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_POLL_SECONDS)

    def meet(self, folder: Path) -> None:
        """Waits until rank 0 is at work with `folder`; not for rank 0 itself."""
        self._folder = folder
        first = self._look(0)[0]  # perhaps of an interrupted run, in which it may have ended with an error
        self.wait(lambda: () if self._look(0)[0] not in ("", first) else (0,), "the beginning of its work", stale=first)

    def _part(self) -> None:
        folder = self._folder
        assert folder is not None
        if self.rank:
            self.wait(lambda: (0,) if folder.exists() else (), "the finished store")
            return
        left = set(range(1, self.world_size))

        def owed() -> set[int]:
            left.difference_update([rank for rank in left if self._look(rank)[1] == _DONE])
            return left

        self.wait(owed, "the end of its work")
        gone = folder.with_name(folder.name + ".gone")  # renamed first: a late beat must find no folder to write into
        os.rename(folder, gone)
        shutil.rmtree(gone)

    def _beat(self, ended: threading.Event) -> None:
        folder, count = self._folder, 0
        assert folder is not None
        while True:
            last = ended.is_set()
            try:
                with atomic_writer(folder / f"{self.rank:06}") as file:
                    content = {"node": self._node, "state": self._state, "beat": count, "process": os.getpid()}
                    file.write(json.dumps(content).encode())
            except OSError:
                pass  # the folder is gone with the end of all work, or the disk is full, which the work itself reports
            if last:
                return
            count += 1
            ended.wait(_BEAT_SECONDS)

    def _look(self, rank: int) -> tuple[str, str]:
        """Reads what a rank last wrote, and the state in it; empty where it wrote nothing."""
        assert self._folder is not None
        try:
            content = (self._folder / f"{rank:06}").read_text()
        except OSError:
            return "", ""
        return content, json.loads(content)["state"]

    def _tell_absent(self, rank: int) -> None:
        """Says once that a rank has not come: it may be one that a shell's left-over variables speak of."""
        if not self._has_told:
            self._has_told = True
            tell(
                f"rank {self.rank} of {self.world_size} on {self._node} waits for rank {rank}, which has not come yet, for "
                f"up to {self._patience_seconds:g} s (data.rank_timeout_seconds): start all of them, with torchrun or srun; "
                "one process alone needs neither RANK nor WORLD_SIZE in its environment",
                sys.stderr,
            )

    def _give_up(self, rank: int, content: str, what: str) -> None:
        node = f" on {json.loads(content)['node']}" if content else ""
        raise DataError(
            f"rank {self.rank} on {self._node} waits for {what} of rank {rank}{node}, which has shown no sign of life for "
            f"{self._patience_seconds:g} s in {self._folder}: see whether it still runs and whether all nodes share that "
            "directory, then start again (data.rank_timeout_seconds says how long to wait); what is finished is kept"
        )
