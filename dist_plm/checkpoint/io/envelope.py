"""Writes what torch.save puts around a tensor's values without torch.save, as the values go straight from their place."""

import functools
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.serialization import get_crc32_options, set_crc32_options

from dist_plm.checkpoint.io.outline import HEAD_BYTES, values_at

#: The id that torch.save ends with: a hash of the names in the archive, and one of the records' CRC32.
_ID = re.compile(rb"(\d{20})\d{20}(?=PK\x07\x08)")


@functools.cache
def envelope(shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    """The bytes before and after the values of a contiguous fp32 tensor of this shape: alike for all values."""
    archive = io.BytesIO()
    with _without_crc32():
        torch.save(torch.empty(shape), archive)
    view = archive.getbuffer()
    begin = values_at(bytes(view[:HEAD_BYTES]))
    assert begin is not None
    # Without CRC32, PyTorch makes the id's second half of memory that it has not set: often the same, but not always.
    return bytes(view[:begin]), _ID.sub(rb"\g<1>" + b"0" * 20, bytes(view[begin + 4 * math.prod(shape) :]))


@contextmanager
def _without_crc32() -> Iterator[None]:
    """It would tell of the values; torch.load does not look at it, and files have a checksum of their own."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)
