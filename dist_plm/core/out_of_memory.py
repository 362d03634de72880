"""Memory that this process may not have: said before work begins where that can be known, and in words where it cannot.

The kernel says nothing to a process that it ends for lack of memory, but counts it in the process' control group.
"""

import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil

from dist_plm.core.errors import DataError

#: Of a preparation that trains no tokenizer: a process' share of text, tokens and hashes.
WORK_BYTES = 100 * 10**6
_REMEDY = "raise it (ulimit -v unlimited), or lower tokenizer.memory_mb and data.workers"
_MOUNTED = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
#: Numbers above stand for "no limit" in version 1.
_NO_LIMIT = 2**60


def check_room(needed_bytes: int) -> None:
    """Refuses to begin under a limit of address space that is sure to end the work: libraries abort there without a word.

    Raises:
        DataError: `ulimit -v` leaves less than `needed_bytes`.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return
    left = limit - psutil.Process().memory_info().vms
    if left < needed_bytes:
        raise DataError(
            f"ulimit -v allows this process {limit / 1e6:,.0f} MB of address space, of which {max(left, 0) / 1e6:,.0f} MB are "
            f"left, and preparing data may take {needed_bytes / 1e6:,.0f} MB: {_REMEDY}"
        )


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether that is what an exception means: threads cannot be started without room for their stacks either."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "thread" in str(error))


def lack_of_memory(error: BaseException) -> DataError:
    """Words the refusal."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    cause = "the machine has not enough memory left"
    remedy = "lower data.workers and tokenizer.memory_mb, or use a machine with more"
    if limit != resource.RLIM_INFINITY:
        cause, remedy = f"ulimit -v allows {limit / 1e6:,.0f} MB a process, which is too little", _REMEDY
    return DataError(
        f"cannot prepare data: {cause} ({str(error) or type(error).__name__}): {remedy}; what is finished is kept"
    )


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group whose memory this process shares.

    Args:
        limit_bytes: None where it has none.
        num_kills: that the kernel counts in it.
    """

    path: Path
    limit_bytes: int | None
    num_kills: int


def memory_groups(own: Path = _OWN, mounted: Path = _MOUNTED) -> list[MemoryGroup]:
    """Reads the control groups of memory that this process is in, the innermost first; none where they cannot be read."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, kinds, path = (*line.split(":", 2), "", "")[:3]
        if (kinds == "" and path) or "memory" in kinds.split(","):
            base = mounted if kinds == "" else mounted / "memory"
            place = base / path.lstrip("/")
            places = [place, *(above for above in place.parents if above.is_relative_to(base))]
            if found := [group for one in places if (group := _read(one)) is not None]:
                return found
    return []


def why_killed(code: int, before: list[MemoryGroup]) -> str:
    """Says how a process ended that a signal ended, with its exit code of Popen, -N.

    Args:
        before: what `memory_groups` gave when the process was started.
    """
    name = signal.Signals(-code).name
    if -code != signal.SIGKILL:
        return f"was ended by {name}"
    counted = {group.path: group.num_kills for group in before}
    killing = [group for group in memory_groups() if group.num_kills > counted.get(group.path, group.num_kills)]
    if not killing:
        return f"was ended by {name}, by somebody or for lack of memory (dmesg may tell, or sacct of a job)"
    group = next((one for one in killing if one.limit_bytes is not None), killing[0])
    limit = f"all processes in {group.path} together may have {_told(group.limit_bytes)}"
    return f"was ended by the kernel for lack of memory ({name}): {limit}"


def _told(limit: int | None) -> str:
    return "what the machine has" if limit is None else f"{limit / 2**30:.3g} GiB"


def _read(place: Path) -> MemoryGroup | None:
    """Reads a group of version 2 or 1."""
    for limit, kills in (("memory.max", "memory.events"), ("memory.limit_in_bytes", "memory.oom_control")):
        try:
            counts = dict(line.split()[:2] for line in (place / kills).read_text().splitlines())
            text = (place / limit).read_text().strip() if os.path.exists(place / limit) else "max"
            most = None if text == "max" or int(text) > _NO_LIMIT else int(text)
            return MemoryGroup(place, most, int(counts.get("oom_kill", 0)))
        except (OSError, ValueError):
            continue
    return None
