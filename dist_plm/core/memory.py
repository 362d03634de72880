"""Memory that this process may not have: said before work begins where that can be known, and in words where it cannot."""

import resource

import psutil

from dist_plm.core.errors import DataError

#: Of a preparation that trains no tokenizer: a process' share of text, tokens and hashes.
WORK_BYTES = 100 * 10**6
_REMEDY = "raise it (ulimit -v unlimited), or lower tokenizer.memory_mb and data.workers"


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
