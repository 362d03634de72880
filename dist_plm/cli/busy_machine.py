"""Keeps a run's waiting threads from taking the cores of a machine that others use as well.

An idle thread of libgomp, in which PyTorch, MKL and oneDNN compute on a CPU, looks for work for milliseconds before it sleeps.
On a machine of its own a run is up to a tenth faster for it. Of two runs on the same cores each waits for threads that have no
core while others look for work on it, and a step takes four times as long where twice would do. A run that begins beside other
work therefore has them sleep soon.
"""

import os
from collections.abc import MutableMapping
from pathlib import Path

#: How often a thread looks for work before it sleeps, in place of libgomp's 300,000.
SPINS = "1000"
_LOAD = Path("/proc/loadavg")


def give_up_idle_cores(environ: MutableMapping[str, str], load: Path = _LOAD) -> None:
    """Has threads that wait leave their core to others where others compute, unless the environment says how they wait.

    To be called before PyTorch is imported, which reads it then.

    Args:
        load: what the kernel says is running, proc_loadavg(5).
    """
    if "OMP_WAIT_POLICY" not in environ and _is_busy(load):
        environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _is_busy(load: Path) -> bool:
    """Whether others compute on half of the cores at least. Of a process that is bound to some cores nobody can tell."""
    cores = os.cpu_count() or 1
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < cores:
        return False
    try:
        running = int(load.read_text().split()[3].split("/")[0])
    except (OSError, ValueError, IndexError):
        return False
    return 2 * (running - 1) >= cores
