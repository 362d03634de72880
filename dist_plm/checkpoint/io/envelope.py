"""Writes and reads what torch.save puts around a tensor's values without torch.save, as the values go straight from or to
their place."""

import functools
import io
import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.serialization import get_crc32_options, set_crc32_options

#: Within so many bytes the values begin.
HEAD_BYTES = 4096
#: Of the archive's entry that holds them uncompressed: lengths of name and extra field, and the name (APPNOTE.TXT, 4.3.7).
_ENTRY = re.compile(rb"PK\x03\x04.{4}\x00\x00.{16}(..)(..)[^/]{1,64}/data/0", re.DOTALL)
_ENTRY_BYTES = 30


@functools.cache
def envelope(shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """The bytes before and after the values of a contiguous fp32 tensor of this shape: alike for all values."""
    archive = io.BytesIO()
    with _without_crc32():
        torch.save(torch.empty(shape), archive)
    view = archive.getbuffer()
    begin = values_at(bytes(view[:HEAD_BYTES]))
    assert begin is not None
    return bytes(view[:begin]), bytes(view[begin + 4 * math.prod(shape) :])


def values_at(head: bytes) -> int | None:
    """Where the values begin in what torch.save wrote of a tensor, from its first HEAD_BYTES; None where it did not."""
    found = _ENTRY.search(head)
    if found is None:
        return None
    name, extra = struct.unpack("<HH", found[1] + found[2])
    return found.start() + _ENTRY_BYTES + name + extra


@contextmanager
def _without_crc32() -> Iterator[None]:
    """It would tell of the values; torch.load does not look at it, and files have a checksum of their own."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)
