"""Memory of the host that another process can map: what is saved in the background is copied there."""

import contextlib
import logging
import math
import mmap
import os
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dist_plm.checkpoint.io.direct_io import ALIGNMENT_BYTES

log = logging.getLogger(__name__)

#: It grows by this much, by a part of what it is, or by the tensor that has no room: each growth holds a descriptor.
GROWTH_BYTES = 64 * 2**20
_GROWTH_PART = 16
_ITEM_BYTES = 4  # fp32


class HostMemory:
    """Grows as tensors are taken from it and is never given back.

    Attributes:
        fd: what another process maps.
    """

    def __init__(self) -> None:
        # Not limited by /dev/shm, which is small in many containers, and gone with the last process that has it open.
        self.fd = os.memfd_create("checkpoint")
        weakref.finalize(self, os.close, self.fd)
        self._locked: list[tuple[int, mmap.mmap]] = []
        weakref.finalize(self, _unlock, self._locked)
        self._size = 0
        self._room: mmap.mmap | None = None
        self._used = 0
        self._offsets: dict[int, int] = {}

    def take(self, shape: Sequence[int], *, pinned: bool) -> Tensor:
        """An fp32 tensor of its own storage that begins at a page, not initialised. `pinned` page-locks it for CUDA."""
        count = math.prod(shape)
        num_bytes = count * _ITEM_BYTES
        if self._room is None or self._used + num_bytes > len(self._room):
            self._room, self._used = self._grow(num_bytes, pinned=pinned), 0
        values = torch.frombuffer(self._room, dtype=torch.float32, count=count, offset=self._used).view(*shape)
        self._offsets[values.data_ptr()] = self._size - len(self._room) + self._used
        self._used += -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return values

    def offset_of(self, values: Tensor) -> int:
        """Where in the memory a tensor lies that was taken from it."""
        return self._offsets[values.data_ptr()]

    def _grow(self, least_bytes: int, *, pinned: bool) -> mmap.mmap:
        unit = mmap.ALLOCATIONGRANULARITY
        num_bytes = -(-max(GROWTH_BYTES, self._size // _GROWTH_PART, least_bytes) // unit) * unit
        os.ftruncate(self.fd, self._size + num_bytes)
        memory = mmap.mmap(self.fd, num_bytes, offset=self._size)
        self._size += num_bytes
        if pinned:
            address = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
            if _lock(address, num_bytes):
                self._locked.append((address, memory))
        return memory


def _lock(address: int, num_bytes: int) -> bool:
    """Page-locks memory for CUDA, and says so where that fails: copies are slower then, and right."""
    runtime: Any = torch.cuda.cudart()
    status = int(runtime.cudaHostRegister(address, num_bytes, 0))
    if status == 0:
        return True
    # CUDA keeps the failure for whoever asks next, which would take it for its own.
    with contextlib.suppress(RuntimeError):
        torch.zeros(1, device="cuda")
    log.warning("CUDA cannot page-lock memory (%d): copies for checkpoints take longer", status)
    return False


def _unlock(locked: list[tuple[int, mmap.mmap]]) -> None:
    """Gives memory back before it is unmapped: CUDA would take what is mapped there later for it, and refuse to lock that."""
    while locked:
        runtime: Any = torch.cuda.cudart()
        runtime.cudaHostUnregister(locked.pop()[0])
