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


def wait_until_none(directory: Path, seconds: float = 120) -> dict[int, str]:
    """What is left of a cluster after at most `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := processes_of(directory)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def ranks_of(run_dir: Path) -> list[int]:
    """Ids, here, of the ranks of a run, whatever node they are on."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            argv = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if (
                len(argv) > 2
                and argv[1].endswith("launch/pretrain.py")
                and any(str(run_dir) in word for word in argv[2:])
            ):
                found.append(int(process.name))
    return found
