"""A file that stays open and is read at many places."""

import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError
from dist_plm.core.regular import open_descriptor


class OpenFile:
    """Is closed when nothing refers to it any more.

    Raises:
        OSError: it cannot be opened, or is no file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.descriptor = open_descriptor(path)
        self.size = os.fstat(self.descriptor).st_size
        weakref.finalize(self, os.close, self.descriptor)

    def read(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> bytes:
        """Bytes [starts[i], starts[i] + lengths[i]) of all i, one run after another.

        Raises:
            DataError: the file ended before.
        """
        descriptor = self.descriptor
        parts = [os.pread(descriptor, *run) for run in zip(lengths.tolist(), starts.tolist(), strict=True)]
        content = b"".join(parts)
        if len(content) == lengths.sum():
            return content
        return b"".join(map(self._whole, starts.tolist(), lengths.tolist()))

    def _whole(self, start: int, length: int) -> bytes:
        """A run that one call may not give whole: it reads no more than 2 GiB."""
        return b"".join(self._pieces(start, length))

    def _pieces(self, start: int, length: int) -> Iterator[bytes]:
        while length:
            piece = os.pread(self.descriptor, length, start)
            if not piece:
                raise DataError(f"{self.path} ended at byte {start:,}: it was truncated after it was opened")
            yield piece
            start, length = start + len(piece), length - len(piece)
