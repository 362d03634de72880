"""Documents between reading and tokenization: shards of text on disk, and which of them are kept for which split."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dist_plm.config.decode import decode, encode
from dist_plm.core.files import atomic_writer
from dist_plm.data.arrays import save_array
from dist_plm.data.store.manifest import SPLITS, StageRecord

#: A document of a shard: where its text ends in the shard, and 128 bits of BLAKE2b of the text.
ENTRY = np.dtype([("end", "<i8"), ("high", "<u8"), ("low", "<u8")])
#: In place of a split: the document is dropped.
DROPPED = -1
_BLOCK = 2**16


@dataclass(frozen=True, slots=True)
class DocumentShard:
    """UTF-8 text of many documents end to end in `prefix.text`; `prefix.npy` has an ENTRY for each."""

    prefix: Path

    @property
    def text_path(self) -> Path:
        return self.prefix.with_name(self.prefix.name + ".text")

    @property
    def index_path(self) -> Path:
        return self.prefix.with_name(self.prefix.name + ".npy")

    @property
    def is_complete(self) -> bool:
        return self.text_path.exists() and self.index_path.exists()

    def entries(self) -> NDArray[np.void]:
        return np.load(self.index_path)

    def texts(self, chosen: NDArray[np.bool_]) -> Iterator[str]:
        """The chosen documents, in order, read as they are asked for."""
        ends = self.entries()["end"]
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        with open(self.text_path, "rb") as file:
            for number in np.flatnonzero(chosen).tolist():
                file.seek(int(starts[number]))
                yield file.read(int(ends[number] - starts[number])).decode()


def write_documents(shard: DocumentShard, texts: Iterator[str]) -> None:
    """Writes a shard, atomically. White space alone is kept as an empty document, so that it can be counted."""
    blocks, entries, end = [], [], 0
    with atomic_writer(shard.text_path) as file:
        for text in texts:
            data = text.encode() if text.strip() else b""
            file.write(data)
            end += len(data)
            digest = hashlib.blake2b(data, digest_size=16).digest()
            entries.append((end, int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")))
            if len(entries) == _BLOCK:
                blocks.append(np.array(entries, dtype=ENTRY))
                entries = []
    with atomic_writer(shard.index_path) as file:
        save_array(file, np.concatenate([*blocks, np.array(entries, dtype=ENTRY)]))


@dataclass(frozen=True, slots=True)
class Selection:
    """Says what becomes of every document.

    Attributes:
        splits: for each shard, [documents] int8: index into SPLITS, or DROPPED.
        split_bytes: of text, for each of SPLITS.
        removed: what was dropped and why, in order.
    """

    splits: list[NDArray[np.int8]]
    split_bytes: dict[str, int]
    removed: tuple[StageRecord, ...]

    @classmethod
    def of(
        cls,
        shards: Sequence[DocumentShard],
        fractions: Sequence[float],
        drops: Sequence[tuple[str, NDArray[np.bool_]]] = (),
    ) -> Self:
        """Drops empty documents, and those that each of `drops` (name of the reason, [documents] bool) drops; the rest go
        to splits by their hash.

        A document's split depends on its text and on `fractions` alone, not on what else there is.
        """
        high = _joined(_column(shards, "high"), np.uint64)
        ends = _column(shards, "end")
        lengths = _joined([np.diff(end, prepend=0) for end in ends], np.int64)
        splits = split_of(high, fractions)
        splits[lengths == 0] = DROPPED
        removed = []
        for name, drop in drops:
            now = drop & (splits != DROPPED)
            splits[now] = DROPPED
            removed.append(StageRecord(name=name, removed=int(now.sum()), removed_bytes=int(lengths[now].sum())))
        split_bytes = {name: int(lengths[splits == i].sum()) for i, name in enumerate(SPLITS)}
        bounds = np.cumsum([len(end) for end in ends])[:-1]
        return cls(np.split(splits, bounds)[: len(shards)], split_bytes, tuple(removed))

    def save(self, path: Path) -> None:
        """Writes it to a file, atomically."""
        rest = json.dumps({"split_bytes": self.split_bytes, "removed": [encode(record) for record in self.removed]})
        with atomic_writer(path) as file:
            np.savez(
                file, rest=np.array(rest), sizes=[len(s) for s in self.splits], splits=_joined(self.splits, np.int8)
            )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote."""
        with np.load(path) as saved:
            sizes, splits, rest = saved["sizes"], saved["splits"], json.loads(saved["rest"].item())
        removed = tuple(decode(StageRecord, record) for record in rest["removed"])
        return cls(np.split(splits, np.cumsum(sizes)[:-1])[: len(sizes)], rest["split_bytes"], removed)


def repeated_documents(shards: Sequence[DocumentShard]) -> NDArray[np.bool_]:
    """Whether each document, of all shards in order, has the text of an earlier one, [documents]."""
    parts = [_joined(_column(shards, name), np.uint64) for name in ("high", "low")]
    return ~first_of_equals(*parts)


def _column(shards: Sequence[DocumentShard], name: str) -> list[NDArray]:
    return [np.ascontiguousarray(shard.entries()[name]) for shard in shards]


def _joined(arrays: Sequence[NDArray], dtype: DTypeLike) -> NDArray:
    return np.concatenate([np.empty(0, dtype), *arrays])


def first_of_equals(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each 128-bit number is the first of its value, [N]."""
    order = np.lexsort((low, high))  # stable, so equals stay in order
    first = np.ones(len(high), dtype=bool)
    same = (high[order[1:]] == high[order[:-1]]) & (low[order[1:]] == low[order[:-1]])
    first[order[1:][same]] = False
    return first


def split_of(hashes: NDArray[np.uint64], fractions: Sequence[float]) -> NDArray[np.int8]:
    """The split, an index into `fractions`, of each hash: the unit interval is cut in the order of `fractions`."""
    total = sum(fractions)
    bounds = [share / total for share in accumulate(fractions)][:-1]
    unit = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.searchsorted(bounds, unit, side="right").astype(np.int8)
