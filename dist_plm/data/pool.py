"""Independent tasks over processes. Tasks write files; what order they finish in does not matter."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from dist_plm.errors import DataError

T = TypeVar("T")

#: Hugging Face tokenizers start a thread a core unless told otherwise; here processes are counted, not threads.
_THREADS = "TOKENIZERS_PARALLELISM"


def run_tasks(function: Callable[[T], None], tasks: Sequence[T], workers: int, done: Callable[[T], object]) -> None:
    """Runs `function` on every task, one thread in each of up to `workers` processes, and `done` here after each.

    The first exception ends it: tasks that have not begun are dropped. One worker runs in this process.

    Raises:
        DataError: a worker process was killed.
        Whatever `function` raises.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        with _one_thread():
            for task in tasks:
                function(task)
                done(task)
        return
    # Not forked: the tokenizers library may have threads running here, and a forked copy of them can deadlock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as executor:
        futures = {executor.submit(function, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                future.result()
                done(futures[future])
        except BrokenProcessPool as error:
            raise DataError(
                f"one of the {workers} processes that prepare data was killed, perhaps for lack of memory (dmesg may tell): "
                "start the same command again, with fewer data.workers if need be; what is finished is kept"
            ) from error
        finally:
            executor.shutdown(cancel_futures=True)


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
