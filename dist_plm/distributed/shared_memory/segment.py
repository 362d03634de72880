"""Shares memory between the ranks of a group on one machine, which wait for each other in it.

Each rank has a line of counters that it alone writes, and two slots for its data. An exchange has a number, counted from 1: a
rank puts its data into the slot of that parity, then the number into its line, and may read a rank's slot once that rank's line
shows the number. What ranks then write into their own slots for others is shown by a second counter. A rank that begins
exchange n has seen that all others began n - 1, so ended n - 2, whose slot it writes over.

Stores become visible to other processors in the order in which they were made (total store order: x86-64); `possible` says so.
"""

import mmap
import os
import platform
import secrets
import time
from pathlib import Path

import torch
from torch import Tensor
from torch._C._distributed_c10d import Store

#: Of one slot: so much takes longer to copy than ranks take to meet, and the slots of a few ranks stay in a processor's cache.
SLOT_BYTES = 1 << 20
_LINE = 8  # words of 8 bytes: a line of the cache
_SHOWN, _CALLS, _LEFT, _PROCESS, _STARTED, _SHOWN_AGAIN = 0, 1, 3, 4, 5, 6  # of `_CALLS` two, by parity
_TOKEN_BYTES = 64
#: Reads of a counter before a rank lets others have its processor: some 10 microseconds.
_SPINS = 150
_YIELD_SECONDS, _SLEEP_SECONDS, _LOOK_SECONDS = 0.002, 0.00005, 0.2


class Unreachable(RuntimeError):
    """Tells that a rank of the group has ended, has left, or does not come."""


def possible() -> bool:
    """Tells whether this machine has what it takes: Linux's anonymous files, and stores that others see in order."""
    return hasattr(os, "memfd_create") and platform.machine() in ("x86_64", "AMD64")


class SharedSegment:
    """Holds the memory of one group of `size` ranks.

    Args:
        store: of the group alone, through which its ranks tell each other where the memory is.
        rank: of this process in the group.
        timeout_seconds: until which a rank is waited for.
    Raises:
        OSError: a rank does not reach the memory, as in a container of its own; every rank of the group gets it.
    """

    def __init__(self, store: Store, rank: int, size: int, timeout_seconds: float) -> None:
        self.rank, self.size = rank, size
        self._timeout_seconds = timeout_seconds
        self._file: int | None = None
        head = _TOKEN_BYTES + 8 * _LINE * size
        self._first_slot = -(-head // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = self._met(store, self._first_slot + 2 * size * SLOT_BYTES)
        # Held by the views of the memory, which outlive this object where a tensor does.
        self._words = memoryview(self._map)[_TOKEN_BYTES:head].cast("q")
        self._own = _LINE * rank
        self._others = [other for other in range(size) if other != rank]
        self._views: dict[torch.dtype, list[list[Tensor]]] = {}
        self._number = 0

    def slots(self, dtype: torch.dtype) -> list[Tensor]:
        """Gives the slots of the exchange that is on, by rank, as whole vectors of `dtype`."""
        if dtype not in self._views:
            # Tensors made in inference mode could not be written to after it.
            with torch.inference_mode(mode=False):
                self._views[dtype] = [
                    [self._slot(rank, parity, dtype) for rank in range(self.size)] for parity in (0, 1)
                ]
        return self._views[dtype][self._number % 2]

    def _slot(self, rank: int, parity: int, dtype: torch.dtype) -> Tensor:
        offset = self._first_slot + (2 * rank + parity) * SLOT_BYTES
        return torch.frombuffer(self._map, dtype=dtype, count=SLOT_BYTES // dtype.itemsize, offset=offset)

    def begin(self) -> None:
        """Start an exchange: this rank's slot may be written once it returns."""
        self._await(self._others, _SHOWN, self._number)
        self._number += 1

    def show(self, call: int) -> None:
        """Let the others read this rank's slot, and what it takes part in: a number that means a call."""
        self._words[self._own + _CALLS + self._number % 2] = call
        self._words[self._own + _SHOWN] = self._number

    def show_again(self) -> None:
        """Let the others read what this rank has written into its slot since it saw all of them."""
        self._words[self._own + _SHOWN_AGAIN] = self._number

    def await_all(self) -> None:
        """Wait until all others have shown their slots."""
        self._await(self._others, _SHOWN, self._number)

    def await_all_again(self) -> None:
        """Wait until all others have shown their slots a second time."""
        self._await(self._others, _SHOWN_AGAIN, self._number)

    def await_one(self, rank: int) -> None:
        """Wait until one rank has shown its slot."""
        self._await([rank], _SHOWN, self._number)

    def call_of(self, rank: int) -> int:
        """Reads what a rank takes part in that has shown its slot."""
        return self._words[_LINE * rank + _CALLS + self._number % 2]

    def leave(self) -> None:
        """Tell those who wait for this rank that it comes no more."""
        self._words[self._own + _LEFT] = 1

    def _await(self, ranks: list[int], word: int, number: int) -> None:
        words = self._words
        for rank in ranks:
            if words[_LINE * rank + word] < number:
                self._wait(rank, _LINE * rank + word, number)

    def _wait(self, rank: int, place: int, number: int) -> None:
        words = self._words
        for _ in range(_SPINS):
            if words[place] >= number:
                return
        began = looked = time.monotonic()
        while words[place] < number:
            now = time.monotonic()
            if now - began < _YIELD_SECONDS:
                os.sched_yield()
                continue
            time.sleep(_SLEEP_SECONDS)  # in which threads of this process have the interpreter
            if now - looked > _LOOK_SECONDS:
                looked = now
                self._look_after(rank, place, number)
            if now - began > self._timeout_seconds:
                raise Unreachable(f"timed out after waiting {self._timeout_seconds:g} s for rank {rank} of the group")

    def _look_after(self, rank: int, place: int, number: int) -> None:
        line = self._words[_LINE * rank : _LINE * (rank + 1)]
        gone = bool(line[_LEFT]) or _started(line[_PROCESS]) != line[_STARTED]
        # It may have gone right after it showed what is waited for.
        if gone and self._words[place] < number:
            raise Unreachable(
                f"connection closed by peer: rank {rank} of the group {'left' if line[_LEFT] else 'ended'}"
            )

    def _met(self, store: Store, num_bytes: int) -> mmap.mmap:
        """The memory, once every rank of the group has it before itself."""
        try:
            mapped, failure = self._made(store, num_bytes) if self.rank == 0 else self._opened(store, num_bytes), ""
        except OSError as error:
            mapped, failure = None, str(error) or "not the same memory"
        store.set(f"reached_{self.rank}", failure)
        failures = [store.get(f"reached_{rank}").decode() for rank in range(self.size)]
        if self._file is not None:
            os.close(self._file)  # the others have it mapped by now
        if mapped is None or any(failures):
            raise OSError("; ".join(f"rank {rank}: {why}" for rank, why in enumerate(failures) if why))
        return mapped

    def _made(self, store: Store, num_bytes: int) -> mmap.mmap:
        where, token = "", secrets.token_bytes(_TOKEN_BYTES)
        try:
            self._file = os.memfd_create("dist_plm_ranks")
            os.ftruncate(self._file, num_bytes)
            mapped = mmap.mmap(self._file, num_bytes)
            mapped[:_TOKEN_BYTES] = token
            where = f"{os.getpid()}/fd/{self._file}"
        finally:
            store.set("place", f"{where} {token.hex()}")
        self._sign(mapped)
        return mapped

    def _opened(self, store: Store, num_bytes: int) -> mmap.mmap:
        where, token = store.get("place").decode().split(" ")
        with Path("/proc", where).open("r+b") as file:
            if os.fstat(file.fileno()).st_size != num_bytes:
                raise OSError("not the same memory")
            mapped = mmap.mmap(file.fileno(), num_bytes)
        if mapped[:_TOKEN_BYTES] != bytes.fromhex(token):
            raise OSError("not the same memory")
        self._sign(mapped)
        return mapped

    def _sign(self, mapped: mmap.mmap) -> None:
        """Write down which process this rank is, by which the others see that it has ended."""
        words = memoryview(mapped)[_TOKEN_BYTES:].cast("q")
        words[_LINE * self.rank + _PROCESS] = os.getpid()
        words[_LINE * self.rank + _STARTED] = _started(os.getpid())


def _started(process: int) -> int:
    """When a process began, in ticks since the machine did; -1 where there is none, or one that has ended."""
    try:
        fields = Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in "ZX" else int(fields[19])
