import os

import pytest
import torch

from dist_plm.checkpoint.io import host_memory
from dist_plm.checkpoint.io.direct_io import ALIGNMENT_BYTES, shared_blocks
from dist_plm.checkpoint.io.host_memory import HostMemory


def test_tensors_lie_apart_where_another_process_finds_them(monkeypatch):
    monkeypatch.setattr(host_memory, "GROWTH_BYTES", 16384)
    memory = HostMemory()
    # Within what there is, too much for the rest of it, too much for a growth.
    shapes = [(3,), (7, 5), (1000, 3), (5000,), (2, 2)]
    taken = [memory.take(shape, pinned=False) for shape in shapes]
    for number, values in enumerate(taken):
        values.fill_(number)
    for number, (values, shape) in enumerate(zip(taken, shapes, strict=True)):
        assert values.untyped_storage().nbytes() == values.nbytes
        assert values.data_ptr() % ALIGNMENT_BYTES == 0
        where = (memory.offset_of(values), values.nbytes)
        found = b"".join(bytes(block) for block in shared_blocks(memory.fd, [where]))
        assert torch.frombuffer(bytearray(found), dtype=torch.float32).view(shape).eq(number).all()


def test_its_descriptor_goes_with_it():
    memory = HostMemory()
    values, fd = memory.take((4,), pinned=False), memory.fd
    values.fill_(7)
    del memory
    assert values.tolist() == [7] * 4
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
