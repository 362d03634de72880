"""The `.idx` half of a token store: its header, and its arrays mapped from the file, which are never read whole.

The arrays lie unaligned in the file, so NumPy's own searches would copy them: bisection goes by memory views.
"""

import mmap
import os
import struct
from bisect import bisect_left
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dist_plm.errors import DataError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
#: Megatron's dtype codes. 6 and 7 are floats, which hold no tokens.
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}

_PROBE_SEQUENCES = 1024  # index entries checked on opening


class Index(NamedTuple):
    dtype: np.dtype
    lengths: NDArray[np.int32]
    pointers: NDArray[np.int64]
    documents: NDArray[np.int64]
    num_bytes: int  # of the .bin file
    # The same numbers for searching one by one: a fifth of the time of an array's elements.
    pointer_view: memoryview
    document_view: memoryview


def open_index(path: str) -> Index:
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER.size)
            size = os.fstat(file.fileno()).st_size
            if len(head) < HEADER.size or not head.startswith(MAGIC):
                raise DataError(f"{path} is not the index of a Megatron token store (no {MAGIC[:7].decode()} header)")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"cannot open {path}: {error.strerror}; is it the prefix of a .bin/.idx pair?") from error
    _in_small_pages(mapped)
    _, version, code, num_sequences, num_indices = HEADER.unpack(head)
    if version != VERSION:
        raise DataError(f"{path} has format version {version}; this program reads version {VERSION}")
    if code not in DTYPES:
        raise DataError(f"{path} has dtype code {code}, which is not an integer type; known are {sorted(DTYPES)}")
    expected = HEADER.size + 12 * num_sequences + 8 * num_indices
    if size not in (expected, expected + num_sequences):
        raise DataError(
            f"{path} holds {size:,} bytes where its header asks for {expected:,}: it is truncated or damaged; "
            "copy or prepare it again"
        )
    pointers_at = HEADER.size + 4 * num_sequences
    lengths = np.frombuffer(mapped, np.dtype("<i4"), num_sequences, HEADER.size)
    pointers = np.frombuffer(mapped, np.dtype("<i8"), num_sequences, pointers_at)
    documents = np.frombuffer(mapped, np.dtype("<i8"), num_indices, pointers_at + 8 * num_sequences)
    dtype = np.dtype(DTYPES[code])
    num_bytes = int(pointers[-1]) + int(lengths[-1]) * dtype.itemsize if num_sequences else 0
    ends = np.cumsum(lengths[:_PROBE_SEQUENCES], dtype=np.int64) * dtype.itemsize
    starts = pointers[: _PROBE_SEQUENCES + 1]
    covered = num_indices and documents[0] == 0 and documents[-1] == num_sequences
    joined = num_sequences == 0 or (starts[0] == 0 and np.array_equal(starts[1:], ends[: len(starts) - 1]))
    if not (covered and joined):
        raise DataError(f"{path} is damaged: documents and sequences do not cover each other; prepare it again")
    view, documents_at = memoryview(mapped), pointers_at + 8 * num_sequences
    pointer_view = view[pointers_at:documents_at].cast("q")
    document_view = view[documents_at:expected].cast("q")
    return Index(dtype, lengths, pointers, documents, num_bytes, pointer_view, document_view)


def _in_small_pages(mapped: mmap.mmap) -> None:
    """Else each entry that is looked at maps 2 MiB, where the page cache holds the file in such pages (Linux 6)."""
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # of a kernel without huge pages
            mapped.madvise(mmap.MADV_NOHUGEPAGE)


def counting(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """starts[0], starts[0] + 1, …, `counts[0]` of them, then those from starts[1], and so on."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)


def bisect_from(values: memoryview, value: int, guess: int) -> int:
    """bisect_left that looks around `guess` first, farther and farther."""
    low = high = guess
    step = 1024
    if low > 0 and values[low - 1] >= value:
        while low > 0 and values[low - 1] >= value:
            high, low, step = low - 1, max(0, low - step), 4 * step
    else:
        while high < len(values) and values[high] < value:
            low, high, step = high + 1, min(len(values), high + step), 4 * step
    return bisect_left(values, value, low, high)


def bisect_near(values: memoryview, value: int, low: int, near: int) -> int:
    """bisect_left from `low` on, the faster where the result is at most `near` above it."""
    high = min(low + near, len(values))
    if high < len(values) and values[high] < value:
        return bisect_left(values, value, high)
    return bisect_left(values, value, low, high)


def bisect_documents(documents: memoryview, sequence: int) -> int:
    """bisect_left, found at once where every document before is one sequence."""
    if (
        sequence < len(documents)
        and documents[sequence] == sequence
        and (sequence == 0 or documents[sequence - 1] < sequence)
    ):
        return sequence
    return bisect_left(documents, sequence)
