"""The first stage: sources into shards of cleaned documents, broken records into lists of their own."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from dist_plm.core.errors import DataError
from dist_plm.core.files import atomic_writer
from dist_plm.data.clean.cleaner import Cleaner, RuleTally
from dist_plm.data.prepare.documents import DocumentShard, write_documents
from dist_plm.data.prepare.staging import REJECTED
from dist_plm.data.prepare.worker_group import WorkerGroup
from dist_plm.data.sources.lines import LineCount
from dist_plm.data.sources.records import Rejected
from dist_plm.data.sources.slices import Slice
from dist_plm.data.sources.sources import SourceFiles, read_slice
from dist_plm.data.store.manifest import StageRecord
from dist_plm.spec.prepare.clean import CleanConfig

_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ReadTask:
    """Reads `unit` into `shard`. Beside it lie the rejected records, their lines counted from the beginnings of their slices,
    and, written last, what was counted."""

    unit: list[Slice]
    shard: DocumentShard
    clean: CleanConfig

    @property
    def rejected_path(self) -> Path:
        return self.shard.prefix.with_name(f"{self.shard.prefix.name}.{REJECTED}")

    @property
    def tally_path(self) -> Path:
        # It was once called ".json", had no `slices`, and lay beside records with lines of the whole file: such a unit has to
        # be read again.
        return self.shard.prefix.with_name(self.shard.prefix.name + ".tally")

    @property
    def is_complete(self) -> bool:
        return self.tally_path.exists()

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in self.unit)


@dataclass(slots=True)
class Tally:
    """Counts of documents read, their UTF-8 bytes, records rejected for each reason, and what each rule of cleaning did.

    `slices` has for each slice of a unit its lines, where its format has any, and its rejected records."""

    documents: int = 0
    num_bytes: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    rules: list[RuleTally] = field(default_factory=list)
    slices: list[tuple[int, int]] = field(default_factory=list)

    @property
    def num_rejected(self) -> int:
        return self.rejected.total()

    def add(self, other: dict[str, Any]) -> None:
        self.documents += other["documents"]
        self.num_bytes += other["num_bytes"]
        self.rejected.update(other["rejected"])
        self.rules = self.rules or [RuleTally() for _ in other["rules"]]
        for rule, counts in zip(self.rules, other["rules"], strict=True):
            rule.removed += counts["removed"]
            rule.removed_bytes += counts["removed_bytes"]
            rule.changed += counts["changed"]

    def encoded(self) -> bytes:
        content = {"documents": self.documents, "num_bytes": self.num_bytes, "rejected": dict(self.rejected)}
        content |= {"rules": [asdict(rule) for rule in self.rules], "slices": self.slices}
        return json.dumps(content).encode()

    def stages(self, rules: Sequence[str]) -> tuple[StageRecord, ...]:
        """Lists what the rules of these names did, in their order."""
        return tuple(StageRecord(name=name, **asdict(rule)) for name, rule in zip(rules, self.rules, strict=True))


def read_and_clean(sources: SourceFiles, clean: CleanConfig, folder: Path, group: WorkerGroup) -> list[ReadTask]:
    """Reads and cleans all sources into document shards, one a unit, in the order of the sources."""
    folder.mkdir(exist_ok=True)
    tasks = [ReadTask(unit, DocumentShard(folder / f"{i:06}"), clean) for i, unit in enumerate(sources.units)]
    group.run(_read, tasks, "read and clean" if clean.rules else "read")
    return tasks


def collect_rejected(
    tasks: Sequence[ReadTask],
    store: Path,
    most: float,
    group: WorkerGroup,
    report: Callable[[str], None],
    *,
    out: Path,
) -> Tally:
    """Adds up what all tasks counted; the rejected records, if any, go to a file in `store`.

    Args:
        out: where the store will be when `report` has been read.
    Raises:
        DataError: more than the share `most` of all records was rejected.
    """
    total, path = Tally(), store / REJECTED
    for task in tasks:
        total.add(json.loads(task.tally_path.read_bytes()))
    if not total.num_rejected:
        return total
    group.lead(path, lambda: _join_rejected(tasks, path))
    records = total.documents + total.num_rejected
    if total.num_rejected > most * records:
        share = math.ceil(1e4 * total.num_rejected / records) / 1e4
        lines = [
            f"{total.num_rejected:,} of {records:,} records are broken, more than data.max_rejected = {most:g} allows:",
            *show_rejected(path, total, path),
            f"mend them, or set data.max_rejected={share:g} to go on without them",
        ]
        raise DataError("\n".join(lines))
    report(f"{total.num_rejected:,} of {records:,} records are broken and left out:")
    for line in show_rejected(path, total, out / REJECTED):
        report(line)
    return total


def show_rejected(path: Path, total: Tally, final: Path) -> Iterator[str]:
    """Lines for a person: reasons and how often, the first records, and where all of them are found afterwards."""
    yield "  " + ", ".join(f"{reason}: {count:,}" for reason, count in total.rejected.most_common())
    with open(path, "rb") as file:
        for line in [file.readline() for _ in range(min(_MOST_SHOWN, total.num_rejected))]:
            record = json.loads(line)
            unit = "row" if "row" in record else "line"
            yield f"  {record['source']}, {unit} {record[unit]}: {record['reason']} ({record['detail']})"
    yield f"  {final} lists {'all of them' if total.num_rejected > 1 else 'it too'}"


def _join_rejected(tasks: Sequence[ReadTask], path: Path) -> None:
    """Joins the lists of all units, the lines of their records counted from the beginnings of files, no more of slices."""
    before = 0
    with atomic_writer(path) as file:
        for task in tasks:
            slices = json.loads(task.tally_path.read_bytes())["slices"]
            with open(task.rejected_path, "rb") as rejected:
                for part, (num_lines, num_rejected) in zip(task.unit, slices, strict=True):
                    before = before if part.goes_on else 0
                    for record in islice(rejected, num_rejected):
                        file.write(_moved(record, before) if before else record)
                    before += num_lines


def _read(task: ReadTask) -> None:
    tally = Tally()
    with atomic_writer(task.rejected_path) as rejected:
        write_documents(task.shard, _texts(task, tally, rejected))
    with atomic_writer(task.tally_path) as file:
        file.write(tally.encoded())


def _texts(task: ReadTask, tally: Tally, rejected: BinaryIO) -> Iterator[str]:
    cleaner = Cleaner(task.clean)
    tally.rules = cleaner.tallies
    for part in task.unit:
        count, before = LineCount(), tally.num_rejected
        for record in read_slice(part, count):
            if isinstance(record, Rejected):
                tally.rejected[record.reason] += 1
                rejected.write(_encoded(part, record))
                continue
            tally.documents += 1
            tally.num_bytes += len(record.text.encode())
            text = cleaner.clean(record.text)
            if text is not None:
                yield text
        tally.slices.append((count.lines, tally.num_rejected - before))


def _encoded(part: Slice, record: Rejected) -> bytes:
    content: dict[str, Any] = {"source": part.path}
    if part.counts_slices:
        content["shard"] = part.start
    content["row" if part.counts_rows else "line"] = record.line
    content |= {"reason": record.reason, "detail": record.detail, "excerpt": record.excerpt}
    return _line(content)


def _moved(record: bytes, num_lines: int) -> bytes:
    content = json.loads(record)
    content["line"] += num_lines
    return _line(content)


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"
