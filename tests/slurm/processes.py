"""Which processes of a cluster are alive."""

import contextlib
import time
from pathlib import Path


def processes_of(directory: Path) -> dict[int, str]:
    """Ids and commands of the processes whose environment or arguments name a cluster's directory; zombies are dead."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes()
            if str(directory).encode() in (process / "environ").read_bytes() + arguments:
                found[int(process.name)] = arguments.replace(b"\0", b" ").decode()
    return found


def wait_until_none(directory: Path, seconds: float = 10) -> dict[int, str]:
    """What is left of a cluster after at most `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := processes_of(directory)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
