"""A rank's hold of the process that writes its files."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import cast

from dist_plm.checkpoint.io import direct_io
from dist_plm.checkpoint.io.direct_io import LOOK_SECONDS, FilePart
from dist_plm.checkpoint.train_state import FileRecord
from dist_plm.core.out_of_memory import MemoryGroup, memory_groups, why_killed


class WriterFailedError(OSError):
    """Says what the writing process ran into, or that it died."""


class WriterProcess:
    """Started when first needed, and again after it died.

    Args:
        memory: the file descriptor of the shared memory in which parts lie (`HostMemory.fd`).
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._groups: list[MemoryGroup] = []

    @property
    def pid(self) -> int | None:
        """Gives the number of the process; None where there is none."""
        return self._process.pid if self._process is not None else None

    def write(self, target: str, parts: Sequence[FilePart]) -> FileRecord:
        """Has `parts` written one after another to `target`, a path or an fsspec URL, and waits.

        Raises:
            WriterFailedError: that failed.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._connection is not None
        assert self._process is not None
        try:
            self._connection.send((target, parts))
            # A worker forked meanwhile may hold the other end open.
            while not self._connection.poll(LOOK_SECONDS) and self._process.poll() is None:
                pass
            answer = self._connection.recv() if self._connection.poll() else None
        except (EOFError, OSError):
            answer = None
        if answer is None:
            raise WriterFailedError(f"the process that writes it {self._end()}")
        if isinstance(answer, str):
            raise WriterFailedError(answer)
        return FileRecord(*answer)

    def close(self) -> None:
        """Ends the process, which must not be writing."""
        if self._connection is not None:
            with contextlib.suppress(OSError):  # it died
                self._connection.send(None)
            self._end()

    def _start(self) -> None:
        self._groups = memory_groups()
        mine, other = multiprocessing.Pipe()
        argv = [sys.executable, "-P", direct_io.__file__, *map(str, (other.fileno(), self._memory, os.getpid()))]
        # Signals for the run often reach all processes of a job. What is blocked here is blocked there from the start.
        signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        try:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, pass_fds=(other.fileno(), self._memory), close_fds=True
            )
        except OSError:
            mine.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            other.close()
        self._connection = cast(Connection, mine)

    def _end(self) -> str:
        """How it ended."""
        assert self._connection is not None
        assert self._process is not None
        self._connection.close()
        code = self._process.wait()
        self._connection = self._process = None
        return why_killed(code, self._groups) if code < 0 else f"ended with {code}"
