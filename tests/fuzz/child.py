"""Runs one case in a process forked for it, within bounds of time and memory, and says how it ended."""

import ctypes
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Of one case. A machine that is busy has the wall's seconds.
CPU_SECONDS, WALL_SECONDS = 20, 120
MEMORY_BYTES = 3 * 2**30
#: Capabilities of root over others' files, as bits: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
_ROOTS_RIGHTS = 1 << 1 | 1 << 2
_CAPABILITIES_3 = 0x20080522


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    output: str
    error: str
    seconds: float

    @property
    def problem(self) -> str | None:
        """What is wrong with how it ended: neither right nor refused with one message."""
        for sign in ("Traceback (most recent", "panicked at", "terminate called", "Fatal Python error"):
            if sign in self.error:
                return sign
        if self.code not in (0, 2):
            return f"exit code {self.code}"
        if self.code == 2 and not (self.error + self.output).strip():
            return "refused without a word"
        return None


def run(case: Callable[[], int], directory: Path) -> Ended:
    """Calls `case` in `directory`."""
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become(case, directory)
    deadline = begun + WALL_SECONDS
    code = None
    while code is None:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        elif time.monotonic() > deadline:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            code = -9
        else:
            time.sleep(0.002)
    output, error = ((directory / name).read_text(errors="replace") for name in ("stdout", "stderr"))
    return Ended(code, output, error, time.monotonic() - begun)


def _become(case: Callable[[], int], directory: Path) -> None:
    code = 70
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, number)
        os.chdir(directory)
        # pytest or a shell may have others in their place.
        sys.argv = sys.argv[:1]
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", errors="backslashreplace")
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        memory = _data_bytes() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = case()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _data_bytes() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024


def give_up_root() -> None:
    """Lets this process, where it is root's, read and write no more than its owner may."""
    if os.geteuid() == 0:
        libc, header = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
        sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, of capabilities 0 to 31 and of the rest
        assert libc.capget(header, sets) == 0, os.strerror(ctypes.get_errno())
        sets[0], sets[1] = sets[0] & ~_ROOTS_RIGHTS, sets[1] & ~_ROOTS_RIGHTS
        assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())
