"""Independent tasks over processes. Tasks write files; what order they finish in does not matter."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import psutil

from dist_plm.core.errors import DataError
from dist_plm.core.out_of_memory import memory_groups, why_killed
from dist_plm.core.panics import panics_as

T = TypeVar("T")

#: Hugging Face tokenizers start a thread a core unless told otherwise; here processes are counted, not threads.
_THREADS = "TOKENIZERS_PARALLELISM"
#: For a process that was told to end.
_END_SECONDS = 5.0


class Pool:
    """Up to `workers` processes, one thread in each, which begin with the first tasks and stay until `close`. One worker
    runs in this process."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._executor: ProcessPoolExecutor | None = None
        self._processes: Mapping[int, Any] = {}
        self._groups = memory_groups()

    def run(self, function: Callable[[T], None], tasks: Sequence[T], done: Callable[[T], object]) -> None:
        """Runs `function` on every task, and `done` here after each.

        The first exception ends it: tasks that have not begun are dropped.

        Raises:
            DataError: a worker process was killed.
            Whatever `function` raises.
        """
        if self._workers == 1 or (len(tasks) <= 1 and self._executor is None):
            with _one_thread():
                for task in tasks:
                    _guarded(function, task)
                    done(task)
            return
        # Not forked: the tokenizers library may have threads running here, and a forked copy of them can deadlock.
        context = multiprocessing.get_context("spawn")
        executor = self._executor = self._executor or ProcessPoolExecutor(
            self._workers, mp_context=context, initializer=_begin_worker
        )
        futures = {executor.submit(_guarded, function, task): task for task in tasks}
        self._processes = executor._processes or self._processes
        try:
            for future in as_completed(futures):
                future.result()
                done(futures[future])
        except BrokenProcessPool as error:
            raise DataError(
                f"one of the {self._workers} processes that prepare data {self._how_one_ended()}: start the same command "
                "again, with fewer data.workers or a smaller tokenizer.memory_mb if need be; what is finished is kept"
            ) from error
        finally:
            for future in futures:
                future.cancel()

    def _how_one_ended(self) -> str:
        """Once one has ended the executor ends the others, with SIGTERM."""
        processes = list((self._processes or {}).values())
        # Not joined: the executor's thread may be at it, and of two that wait for a process one is told nothing.
        latest = time.monotonic() + _END_SECONDS
        while any(process.exitcode is None for process in processes) and time.monotonic() < latest:
            time.sleep(0.01)
        codes = [process.exitcode for process in processes if process.exitcode not in (None, 0, -signal.SIGTERM)]
        signalled = [code for code in codes if code is not None and code < 0]
        if signalled:
            return why_killed(min(signalled, key=lambda code: code != -signal.SIGKILL), self._groups)
        return f"ended with {codes[0]}" if codes else "was killed"

    def bytes_read(self) -> int:
        """Counts the bytes that this process and its workers have read so far, from files and whatever else."""
        me = psutil.Process()
        return sum(_bytes_read(process) for process in (me, *me.children()))

    def close(self) -> None:
        """Ends the processes, when what they are at is done."""
        if self._executor is not None:
            processes = list((self._executor._processes or {}).values())
            try:
                self._executor.shutdown(cancel_futures=True)
            except RuntimeError:  # its own thread could not be started, for lack of memory: nobody ends the processes
                for process in processes:
                    process.terminate()
                    process.join()
            self._executor = None


def _guarded(function: Callable[[T], None], task: T) -> None:
    """A panic is made an error that can be sent to another process, which the exception of a Rust library cannot."""
    with panics_as(DataError, "a library gave up on a part of the data"):
        function(task)


def _bytes_read(process: psutil.Process) -> int:
    try:
        return getattr(process.io_counters(), "read_chars", 0)  # which Linux alone counts
    except psutil.Error:  # it ended meanwhile
        return 0


@contextmanager
def _one_thread():
    before = os.environ.get(_THREADS)
    os.environ[_THREADS] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = before


def _begin_worker() -> None:
    os.environ[_THREADS] = "false"
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends quietly where Python would print a traceback
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow_parent() -> None:
        # The executor's workers wait for ever for tasks from a parent that was killed.
        parent.join()
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
