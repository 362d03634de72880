"""Samples: windows of a token store in the stateless order of `core.permutation`."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError, count_of
from dist_plm.core.randomness.permutation import windows_of
from dist_plm.data.samples import Windows
from dist_plm.data.store.splits import StoreSplit, find_split
from dist_plm.data.store.store import TokenStore


class WindowDataset:
    """The tokens [start, stop) of a store, documents joined, cut into windows of `sequence_length` + 1 tokens.

    Window i begins at token start + i * sequence_length; its last token is the next window's first. Sample n reads the
    window that `window_of(n, num_windows, seed)` names, so samples never run out. It can be sent to workers.

    Raises:
        DataError: there are not enough tokens for one window.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        sequence_length: int,
        seed: int,
        start: int = 0,
        stop: int | None = None,
        content: str | None = None,
        name: str | None = None,
    ) -> None:
        """`content` is a hash of the tokens, where a better one than store.fingerprint() is known; `name` is what
        messages call the data."""
        self.store = store
        self.sequence_length = sequence_length
        self.seed = seed
        self.start = start
        self.stop = store.num_tokens if stop is None else stop
        assert 0 <= self.start <= self.stop <= store.num_tokens, f"[{self.start}, {self.stop})"
        self.num_windows = max(self.stop - self.start - 1, 0) // sequence_length
        self._content = content
        self.name = name or store.prefix
        if self.num_windows == 0:
            raise DataError(
                f"{self.name} holds {self.stop - self.start:,} tokens, too few for one window of "
                f"data.sequence_length + 1 = {sequence_length + 1:,}: prepare more text, give this split a larger "
                "share in data.split, or shorten data.sequence_length"
            )

    @classmethod
    def of(cls, split: StoreSplit, *, sequence_length: int, seed: int) -> "WindowDataset":
        """Cuts the documents of a split into windows."""
        return cls(
            split.store,
            sequence_length=sequence_length,
            seed=seed,
            start=split.start,
            stop=split.stop,
            content=split.content,
            name=split.name,
        )

    def read(self, samples: NDArray[np.int64]) -> Windows:
        """The windows of samples [B]."""
        samples, length = np.asarray(samples, dtype=np.int64), self.sequence_length + 1
        starts = self.start + windows_of(samples, self.num_windows, self.seed) * self.sequence_length
        tokens = self.store.read_many(starts, np.full_like(starts, length)).reshape(-1, length)
        begins = np.zeros(tokens.shape, dtype=np.int32)
        rows, positions = self.store.document_starts(starts + 1, starts + length)
        begins[rows, positions - starts[rows]] = 1
        return Windows(tokens, np.cumsum(begins, axis=1, dtype=np.int32), samples)

    def identity(self) -> str:
        """A hash of all that decides which tokens sample n holds; equal identities mean equal samples."""
        content = self._content or self.store.fingerprint()
        parts = (content, self.start, self.stop, self.sequence_length, self.seed)
        return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()

    def describe(self) -> str:
        """Describes what is read, in a line for people."""
        return f"{self.name}, {count_of(self.num_windows, 'window', ',')} of {self.sequence_length:,} tokens"


def open_split(
    path: str | Path, split: str, fractions: Sequence[float], *, sequence_length: int, seed: int
) -> WindowDataset:
    """The samples of "train", "validation" or "test".

    Args:
        path, fractions: see splits.find_split.
    Raises:
        DataError: nothing usable lies at `path`, or the split is shorter than one window.
    """
    return WindowDataset.of(find_split(path, split, fractions), sequence_length=sequence_length, seed=seed)
