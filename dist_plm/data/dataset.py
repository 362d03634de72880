"""Samples: windows of a token store in the stateless order of `order`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.manifest import SPLITS, read_manifest
from dist_plm.data.order import windows_of
from dist_plm.data.store import TokenStore
from dist_plm.errors import DataError


@dataclass(frozen=True, slots=True)
class Windows:
    """B samples of S + 1 tokens, so that inputs and labels of S overlap by one.

    Attributes:
        tokens: [B, S + 1].
        documents: [B, S + 1], which document each token belongs to, counted 0, 1, 2, … from the window's first.
        samples: [B], the number of each sample in the run.
    """

    tokens: NDArray[np.int64]
    documents: NDArray[np.int32]
    samples: NDArray[np.int64]


class WindowDataset:
    """The tokens [start, stop) of a store, documents joined, cut into windows of `sequence_length` + 1 tokens.

    Window i begins at token start + i * sequence_length; its last token is the next window's first. Sample n reads the
    window that `order.window_of(n, num_windows, seed)` names, so samples never run out. It can be sent to workers.

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
        if self.num_windows == 0:
            raise DataError(
                f"{name or store.prefix} holds {self.stop - self.start:,} tokens, too few for one window of "
                f"data.sequence_length + 1 = {sequence_length + 1:,}: prepare more text, give this split a larger "
                "share in data.split, or shorten data.sequence_length"
            )

    def read(self, samples: NDArray[np.int64]) -> Windows:
        """The windows of samples [B]."""
        length = self.sequence_length + 1
        tokens = np.empty((len(samples), length), dtype=np.int64)
        documents = np.zeros((len(samples), length), dtype=np.int32)
        starts = self.start + windows_of(samples, self.num_windows, self.seed) * self.sequence_length
        for row, start in enumerate(starts.tolist()):
            tokens[row] = self.store.read(start, length)
            documents[row, self.store.document_starts(start + 1, start + length) - start] = 1
        return Windows(tokens, np.cumsum(documents, axis=1, dtype=np.int32), np.asarray(samples, dtype=np.int64))

    def identity(self) -> str:
        """A hash of all that decides which tokens sample n holds; equal identities mean equal samples."""
        content = self._content or self.store.fingerprint()
        parts = (content, self.start, self.stop, self.sequence_length, self.seed)
        return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


def open_split(
    path: str | Path, split: str, fractions: Sequence[float], *, sequence_length: int, seed: int
) -> WindowDataset:
    """The samples of "train", "validation" or "test".

    Args:
        path: a directory that prepare_data wrote, or the prefix of a Megatron .bin/.idx pair.
        fractions: of a bare pair's documents that go to train, validation and test, in this order; normalised to sum 1.
            A prepared store brings its own.
    Raises:
        DataError: nothing usable lies at `path`, or the split is shorter than one window.
    """
    assert split in SPLITS, f"{split!r} is not one of {SPLITS}"
    path = Path(path)
    if path.is_dir():
        return _open_prepared(path, split, sequence_length=sequence_length, seed=seed)
    prefix = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
    if not Path(f"{prefix}.idx").exists():
        raise DataError(
            f"data.path = {str(path)!r}: there is neither such a directory nor {prefix}.idx; make a store with "
            "prepare_data, or give the prefix of a Megatron .bin/.idx pair"
        )
    store = TokenStore.open(prefix)
    first, last = _share(store.num_documents, split, fractions)
    return WindowDataset(
        store,
        sequence_length=sequence_length,
        seed=seed,
        start=store.document_start(first),
        stop=store.document_start(last),
        name=f"the {split} split of {prefix} ({last - first:,} of {store.num_documents:,} documents)",
    )


def _open_prepared(path: Path, split: str, *, sequence_length: int, seed: int) -> WindowDataset:
    manifest = read_manifest(path)
    record = manifest.split(split)
    store = TokenStore.open(path / record.prefix)
    found = (store.num_tokens, store.num_documents, store.dtype.name)
    if found != (record.tokens, record.documents, manifest.dtype):
        raise DataError(
            f"{path / record.prefix}.bin holds {found[0]:,} tokens in {found[1]:,} documents as {found[2]} where the "
            f"manifest says {record.tokens:,} in {record.documents:,} as {manifest.dtype}: files of two stores are "
            "mixed; prepare the data again"
        )
    name = f"the {split} split of {path} ({record.documents:,} documents)"
    content = manifest.identity(split)
    return WindowDataset(store, sequence_length=sequence_length, seed=seed, content=content, name=name)


def _share(count: int, split: str, fractions: Sequence[float]) -> tuple[int, int]:
    """The contiguous range of `count` documents that `split` gets."""
    total = sum(fractions)
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or total <= 0:
        raise DataError(f"data.split = {list(fractions)}: give three shares of documents, as in [0.98,0.01,0.01]")
    bounds = [0, *(round(count * share / total) for share in accumulate(fractions))]
    index = SPLITS.index(split)
    return bounds[index], bounds[index + 1]
