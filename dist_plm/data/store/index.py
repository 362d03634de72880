"""The `.idx` half of a token store: its header, and its arrays.

Whole arrays are mapped from the file. Single entries are looked up in memory where the index is small, and otherwise read
from the file one by one: each that is looked at in mapped memory can make two megabytes resident (Linux maps the page
cache in pages of that size), so that an index of gigabytes would by and by be in the memory of every worker.
"""

import mmap
import os
import struct
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError, reason_of
from dist_plm.data.store.open_file import OpenFile

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
#: Megatron's dtype codes. 6 and 7 are floats, which hold no tokens.
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}

_PROBE_SEQUENCES = 1024  # index entries checked on opening
#: Of entries that are kept in memory.
HELD_BYTES = 2**23
_AROUND = 64  # entries read about a guess: as quick as one

Ints = NDArray[np.int64]


class Entries(ABC):
    """Ascending integers, looked up by number or by value.

    Attributes:
        last: the greatest one.
        size: how many there are.
    """

    last: int
    size: int

    @abstractmethod
    def take(self, numbers: Ints) -> Ints:
        """The entries of these numbers [B]."""

    @abstractmethod
    def search(self, values: Ints, near: Ints | None = None) -> Ints:
        """Numbers [B] of the first entries that are not below `values` [B], `size` where all are.

        Args:
            near: about where that is, [B], where it is known.
        """


class HeldEntries(Entries):
    """In memory."""

    def __init__(self, values: Ints) -> None:
        self._values = values
        self.size, self.last = len(values), int(values[-1])

    def take(self, numbers: Ints) -> Ints:
        return self._values[numbers]

    def search(self, values: Ints, near: Ints | None = None) -> Ints:
        return np.searchsorted(self._values, values)


class FileEntries(Entries):
    """`size` int64 from byte `offset` of a file, all in multiples of `unit`; the last one may be given instead."""

    def __init__(self, file: OpenFile, offset: int, size: int, *, unit: int = 1, last: int | None = None) -> None:
        self._file, self._offset, self._unit = file, offset, unit
        self.size, self._given = size, last
        self.last = np.iinfo(np.int64).max  # for the next line
        self.last = int(self.take(np.array([size - 1]))[0]) if last is None else last

    def take(self, numbers: Ints) -> Ints:
        if len(numbers) == 0:
            return np.zeros(0, dtype=np.int64)
        # Consecutive ones are read at once.
        begins = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 2) != 1)
        counts = np.diff(begins, append=len(numbers))
        values = self._read(numbers[begins], counts)
        if self._given is not None:
            values[numbers == self.size - 1] = self._given
        if values.min() < 0 or values.max() > self.last:
            raise _damaged(self._file.path)
        return values

    def search(self, values: Ints, near: Ints | None = None) -> Ints:
        """By interpolation, and by bisection in every other round from the third: entries may be spaced in any way."""
        density = self.size / max(self.last, 1)
        guess = (values * density).astype(np.int64) if near is None else near
        low, high = np.zeros_like(values), np.full_like(values, self.size)
        width, turn = min(_AROUND, self.size), 0
        pending = np.arange(len(values))
        while pending.size:
            wanted = values[pending]
            begin = np.clip(guess - width // 2, 0, self.size - width)
            seen = self.take(counting(begin, np.full_like(begin, width))).reshape(-1, width)
            below = np.count_nonzero(seen < wanted[:, None], axis=1)
            low[pending] = np.where(below > 0, np.maximum(begin + below, low[pending]), low[pending])
            high[pending] = np.where(below < width, np.minimum(begin + below, high[pending]), high[pending])
            edge = np.where(below > 0, width - 1, 0)
            turn += 1
            if turn >= 3 and turn % 2:
                guess = (low[pending] + high[pending]) // 2
            else:
                distance = (wanted - seen[np.arange(len(seen)), edge]) * density
                guess = np.clip(begin + edge + distance.astype(np.int64), low[pending], high[pending])
            left = low[pending] < high[pending]
            pending, guess = pending[left], guess[left]
        return low

    def _read(self, begins: Ints, counts: Ints) -> Ints:
        content = self._file.read(self._offset + 8 * begins, 8 * counts)
        return np.frombuffer(content, np.dtype("<i8")) // self._unit


class Index(NamedTuple):
    dtype: np.dtype
    lengths: NDArray[np.int32]
    pointers: NDArray[np.int64]
    documents: NDArray[np.int64]
    num_bytes: int  # of the .bin file
    # For looking up: the position, in tokens, of each sequence and of the end; the first sequence of each document.
    positions: Entries
    firsts: Entries


def open_index(path: str) -> Index:
    try:
        file = OpenFile(path)
    except OSError as error:
        raise DataError(
            f"cannot open {path}: {reason_of(error, path)}; is it the prefix of a .bin/.idx pair?"
        ) from error
    head = os.pread(file.descriptor, HEADER.size, 0)
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise DataError(f"{path} is not the index of a Megatron token store (no {MAGIC[:7].decode()} header)")
    mapped = mmap.mmap(file.descriptor, 0, access=mmap.ACCESS_READ)
    _, version, code, num_sequences, num_indices = HEADER.unpack(head)
    if version != VERSION:
        raise DataError(f"{path} has format version {version}; this program reads version {VERSION}")
    if code not in DTYPES:
        raise DataError(f"{path} has dtype code {code}, which is not an integer type; known are {sorted(DTYPES)}")
    expected = HEADER.size + 12 * num_sequences + 8 * num_indices
    if file.size not in (expected, expected + num_sequences):
        raise DataError(
            f"{path} holds {file.size:,} bytes where its header asks for {expected:,}: it is truncated or damaged; "
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
        raise _damaged(path)
    num_tokens = num_bytes // dtype.itemsize
    if 8 * (num_sequences + num_indices) <= HELD_BYTES:
        _check_all(path, lengths, pointers, documents, dtype.itemsize)
        positions = HeldEntries(np.append(pointers // dtype.itemsize, num_tokens))
        firsts = HeldEntries(documents.astype(np.int64))
    else:
        positions = FileEntries(file, pointers_at, num_sequences + 1, unit=dtype.itemsize, last=num_tokens)
        firsts = FileEntries(file, pointers_at + 8 * num_sequences, num_indices)
    return Index(dtype, lengths, pointers, documents, num_bytes, positions, firsts)


def _check_all(path: str, lengths: NDArray, pointers: NDArray, documents: NDArray, itemsize: int) -> None:
    """Whether each sequence begins where the one before it ends, and each document not before the one before it."""
    ends = np.cumsum(lengths, dtype=np.int64) * itemsize
    joined = np.array_equal(pointers[1:], ends[:-1])
    if not joined or (len(lengths) and lengths.min() < 0) or np.any(documents[1:] < documents[:-1]):
        raise _damaged(path)


def _damaged(path: object) -> DataError:
    return DataError(f"{path} is damaged: documents and sequences do not cover each other; prepare it again")


def counting(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """starts[0], starts[0] + 1, …, `counts[0]` of them, then those from starts[1], and so on."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
