"""Dropping what was said before: equal documents, equal paragraphs, nearly equal documents.

Each stage works on one shard, or one band of signatures, at a time, on any rank; only hashes and signatures of all
documents come together in one place.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from dist_plm.core.files import atomic_writer
from dist_plm.data.arrays import save_array
from dist_plm.data.dedup.minhash import Signatures, bands_and_rows, components, signature_blocks, similar_pairs
from dist_plm.data.prepare.documents import DROPPED, DocumentShard, Selection, repeated_documents, write_documents
from dist_plm.data.prepare.worker_group import WorkerGroup
from dist_plm.data.store.manifest import StageRecord
from dist_plm.data.text_patterns import PARAGRAPH_END
from dist_plm.spec.prepare.clean import DedupConfig

EQUAL, PARAGRAPHS, NEAR = "equal documents", "equal paragraphs", "near duplicates"
_KEPT = 0  # in place of the hash of a paragraph that is too short to be dropped


def deduplicate(
    config: DedupConfig, shards: Sequence[DocumentShard], fractions: Sequence[float], scratch: Path, group: WorkerGroup
) -> tuple[Sequence[DocumentShard], Selection, tuple[StageRecord, ...]]:
    """The shards that are left, what becomes of their documents, and what was removed, stage by stage.

    Args:
        fractions: shares of the splits.
        scratch: where the stages keep their files.
    """
    selection = _selection(
        scratch / "selection.npz",
        group,
        lambda: Selection.of(shards, fractions, [(EQUAL, repeated_documents(shards))] if config.documents else []),
    )
    removed = selection.removed
    if config.paragraphs:
        shards, record = _without_paragraphs(config, shards, selection, scratch / "paragraphs", group)
        again = scratch / "selection_paragraphs.npz"
        selection = _selection(again, group, lambda: Selection.of(shards, fractions))
        removed += (record,)
    if config.near:
        numbers, paths = _sign(config, shards, selection, scratch / "signatures", group)
        pairs = _pairs(config, paths, scratch / "pairs", group)
        near = scratch / "selection_near.npz"
        rest = selection
        selection = _selection(
            near, group, lambda: Selection.of(shards, fractions, _near_drops(rest, numbers, [p.path for p in pairs]))
        )
        removed += selection.removed[-1:]
    return shards, selection, removed


def _selection(path: Path, group: WorkerGroup, make: Callable[[], Selection]) -> Selection:
    group.lead(path, lambda: make().save(path))
    return Selection.load(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ShardTask:
    """Work on a shard's `chosen` documents, whose outcome `path` holds."""

    shard: DocumentShard
    chosen: NDArray[np.bool_]
    path: Path

    @property
    def is_complete(self) -> bool:
        return self.path.exists()

    @property
    def num_bytes(self) -> int:
        return self.shard.text_path.stat().st_size


@dataclass(frozen=True, slots=True, kw_only=True)
class _HashTask(_ShardTask):
    """Hashes of the paragraphs, in order."""

    least: int


def _hash(task: _HashTask) -> None:
    hashes = [
        xxhash.xxh3_64_intdigest(paragraph.encode()) or 1 if len(paragraph) >= task.least else _KEPT
        for text in task.shard.texts(task.chosen)
        for paragraph in _paragraphs(text)
    ]
    with atomic_writer(task.path) as file:
        save_array(file, np.array(hashes, dtype=np.uint64))


@dataclass(frozen=True, slots=True, kw_only=True)
class _RewriteTask(_ShardTask):
    """The documents without repeated paragraphs, to `target`, then counts.

    `repeated` holds which paragraphs of all shards are; this shard's are those from `start` to `stop`."""

    repeated: Path
    start: int
    stop: int
    target: DocumentShard


def _rewrite(task: _RewriteTask) -> None:
    repeated: NDArray[np.bool_] = np.array(np.load(task.repeated, mmap_mode="r")[task.start : task.stop])
    record = StageRecord(name=PARAGRAPHS, removed=0, removed_bytes=0)
    counts = asdict(record)

    def texts():
        first = 0
        for text in task.shard.texts(task.chosen):
            paragraphs = _paragraphs(text)
            drop = repeated[first : first + len(paragraphs)]
            first += len(paragraphs)
            if not drop.any():
                yield text
                continue
            kept = "\n\n".join(p for p, gone in zip(paragraphs, drop, strict=True) if not gone)
            counts["removed_bytes"] += len(text.encode()) - len(kept.encode())
            counts["changed" if kept.strip() else "removed"] += 1
            if kept.strip():
                yield kept

    write_documents(task.target, texts())
    with atomic_writer(task.path) as file:
        file.write(json.dumps(counts).encode())


def _without_paragraphs(
    config: DedupConfig, shards: Sequence[DocumentShard], selection: Selection, folder: Path, group: WorkerGroup
) -> tuple[list[DocumentShard], StageRecord]:
    folder.mkdir(exist_ok=True)
    chosen = [splits != DROPPED for splits in selection.splits]
    hashed = [
        _HashTask(
            shard=shard, chosen=keep, path=folder / f"{shard.prefix.name}.hashes.npy", least=config.min_paragraph_chars
        )
        for shard, keep in zip(shards, chosen, strict=True)
    ]
    group.run(_hash, hashed, "hash paragraphs")
    bounds, repeated = folder / "bounds.npy", folder / "repeated.npy"
    group.lead(repeated, lambda: _save_repeated([task.path for task in hashed], bounds, repeated))
    tasks = [
        _RewriteTask(
            shard=shard,
            chosen=keep,
            path=folder / f"{i:06}.json",
            repeated=repeated,
            start=start,
            stop=stop,
            target=DocumentShard(folder / shard.prefix.name),
        )
        for i, (shard, keep, (start, stop)) in enumerate(
            zip(shards, chosen, pairwise(np.load(bounds).tolist()), strict=True)
        )
    ]
    group.run(_rewrite, tasks, "drop equal paragraphs")
    counts = [json.loads(task.path.read_bytes()) for task in tasks]
    sums = {key: sum(count[key] for count in counts) for key in ("removed", "removed_bytes", "changed")}
    return [task.target for task in tasks], StageRecord(name=PARAGRAPHS, **sums)


def _save_repeated(hashes: Sequence[Path], bounds: Path, path: Path) -> None:
    """Saves where the paragraphs of each shard begin among those of all, [shards + 1], then to `path` which have the hash of
    an earlier one, [paragraphs]: a single array, so that a shard's part can be read alone."""
    parts = [np.load(part) for part in hashes]
    with atomic_writer(bounds) as file:
        save_array(file, np.cumsum([0, *map(len, parts)]))
    together = np.concatenate([np.empty(0, np.uint64), *parts])
    order = np.argsort(together, kind="stable")
    repeated = np.zeros(len(together), bool)
    repeated[order[1:]] = together[order[1:]] == together[order[:-1]]
    repeated[together == _KEPT] = False
    with atomic_writer(path) as file:
        save_array(file, repeated)


def _paragraphs(text: str) -> list[str]:
    return [part for part in PARAGRAPH_END.split(text) if part.strip()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _SignTask(_ShardTask):
    """MinHash signatures of the documents."""

    config: DedupConfig


def _sign_shard(task: _SignTask) -> None:
    size, permutations = task.config.shingle, task.config.permutations
    header = {"descr": "<u4", "fortran_order": False, "shape": (int(task.chosen.sum()), permutations)}
    with atomic_writer(task.path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in signature_blocks(task.shard.texts(task.chosen), size, permutations):
            file.write(block.tobytes())


def _sign(
    config: DedupConfig, shards: Sequence[DocumentShard], selection: Selection, folder: Path, group: WorkerGroup
) -> tuple[NDArray[np.int64], list[Path]]:
    """Signatures of the documents that are left, a file a shard, and the numbers of those documents among all."""
    folder.mkdir(exist_ok=True)
    chosen = [splits != DROPPED for splits in selection.splits]
    tasks = [
        _SignTask(shard=shard, chosen=keep, path=folder / f"{shard.prefix.name}.npy", config=config)
        for shard, keep in zip(shards, chosen, strict=True)
    ]
    group.run(_sign_shard, tasks, "sign")
    return np.flatnonzero(np.concatenate([np.empty(0, bool), *chosen])), [task.path for task in tasks]


@dataclass(frozen=True, slots=True)
class _BandTask:
    """The similar pairs that one band finds, to `path`."""

    signatures: tuple[Path, ...]
    band: int
    rows: int
    threshold: float
    path: Path
    num_bytes: int

    @property
    def is_complete(self) -> bool:
        return self.path.exists()


def _find_pairs(task: _BandTask) -> None:
    parts = [partial(np.load, path, mmap_mode="r") for path in task.signatures]
    pairs = similar_pairs(Signatures(parts), task.band, task.rows, task.threshold)
    with atomic_writer(task.path) as file:
        save_array(file, pairs)


def _pairs(config: DedupConfig, paths: Sequence[Path], folder: Path, group: WorkerGroup) -> list[_BandTask]:
    folder.mkdir(exist_ok=True)
    bands, rows = bands_and_rows(config.threshold, config.permutations, config.recall)
    num_bytes = sum(path.stat().st_size for path in paths) // bands
    tasks = [
        _BandTask(tuple(paths), band, rows, config.threshold, folder / f"{band:03}.npy", num_bytes)
        for band in range(bands)
    ]
    group.run(_find_pairs, tasks, "compare")
    return tasks


def _near_drops(
    selection: Selection, numbers: NDArray[np.int64], pairs: Sequence[Path]
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Drops what `selection` drops, and of each component of similar documents all but the first."""
    before = np.concatenate([np.empty(0, np.int8), *selection.splits]) == DROPPED
    found = np.concatenate([np.empty((0, 2), np.int64), *map(np.load, pairs)])
    near = np.zeros(len(before), bool)
    near[numbers] = components(len(numbers), found) != np.arange(len(numbers))
    return [("", before), (NEAR, near)]
