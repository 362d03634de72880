"""Names what a rank takes part in: to the others by a number, and by a line to whoever asks where a process hangs."""

import time
from collections import deque
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import torch

from dist_plm.distributed.shared_memory.segment import SharedSegment

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "barrier")
REDUCTIONS = ("", "sum", "max", "min")
DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.int8,
)
#: The last calls of this process: kind, number in its group, the group's name and description, when, and whether it has ended.
_last: deque[list[Any]] = deque(maxlen=512)


class SharedCall(NamedTuple):
    """Holds what a collective is: of `count` elements a rank."""

    kind: str
    dtype: torch.dtype = torch.uint8
    count: int = 0
    reduction: str = ""
    root: int = 0

    def __str__(self) -> str:
        reduction = f" ({self.reduction})" if self.reduction else ""
        root = f" from rank {self.root}" if self.kind == "broadcast" else ""
        values = "" if self.kind == "barrier" else f" of {self.count:,} {str(self.dtype).removeprefix('torch.')}"
        return f"{self.kind}{values}{reduction}{root}"


class Disagreement(RuntimeError):
    """Tells that ranks of a group take part in different collectives."""


@cache
def number_of(call: SharedCall) -> int:
    """Packs a call into a number: kind, dtype, reduction, root and count, from the lowest bits."""
    parts = (KINDS.index(call.kind), DTYPES.index(call.dtype), REDUCTIONS.index(call.reduction))
    return sum(part << 3 * place for place, part in enumerate(parts)) | call.root << 9 | call.count << 21


def call_of(number: int) -> SharedCall:
    """Reads `number_of`."""
    kind, dtype, reduction = (number >> 3 * place & 7 for place in range(3))
    return SharedCall(KINDS[kind], DTYPES[dtype], number >> 21, REDUCTIONS[reduction], number >> 9 & 4095)


def refuse_other(call: SharedCall, segment: SharedSegment, ranks: Iterable[int]) -> None:
    """Compares `call` with what `ranks` take part in.

    Raises:
        Disagreement: with something else.
    """
    number = number_of(call)
    for rank in ranks:
        if (other := segment.call_of(rank)) != number:
            raise Disagreement(
                f"ranks of a group disagree: rank {segment.rank} of it is in {call}, rank {rank} in {call_of(other)}"
            )


def begun(kind: str, number: int, name: str, description: str) -> list[Any]:
    """Writes down that a call has begun; `entry[-1] = True` says that it has ended."""
    entry = [kind, number, name, description, time.time_ns(), False]
    _last.append(entry)
    return entry


def entries() -> list[dict[str, Any]]:
    """Tells of the last calls of this process as PyTorch's flight recorders do."""
    return [
        {
            "profiling_name": f"shared_memory:{kind}",
            "collective_seq_id": number,
            "process_group": [name, description],
            "state": "completed" if ended else "scheduled",
            "time_created_ns": created,
            "is_p2p": False,
        }
        for kind, number, name, description, created, ended in list(_last)
    ]
