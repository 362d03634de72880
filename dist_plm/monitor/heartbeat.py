"""Where each rank of a run was last seen: a small file a rank, which also a rank that no longer answers has left behind.

Files, not messages: what has stopped, or is cut off, cannot be asked, and asking it would hang as well.
"""

import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from dist_plm.core.files import atomic_writer

#: Of a summary: lines for a group of ranks each, and ranks named one by one.
MAX_LINES = 20
_DIRECTORY = "seen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """Holds what a rank said of itself.

    Args:
        start: number of the run's start that the rank belongs to.
        time: of the statement, in seconds since 1970.
        doing: the part of the loop it is in.
        hung: it has given up waiting.
        idle_seconds: without progress.
        collective: the last that it entered; known where `hung`.
    """

    rank: int
    node: str
    pid: int
    start: int
    time: float
    doing: str
    hung: bool = False
    idle_seconds: float = 0.0
    collective: str | None = None


def write(run_dir: Path, sighting: Sighting) -> None:
    """Replaces the rank's earlier one."""
    path = _file(run_dir, sighting.start, sighting.rank)
    for directory in (path.parent.parent, path.parent):  # not the run's own, which may be moved away for a moment
        directory.mkdir(exist_ok=True)
    # Not synced: after a power cut no rank waits for another.
    with atomic_writer(path, temporary=f".{path.name}.{os.getpid()}.tmp", sync=False) as file:
        file.write(json.dumps(asdict(sighting)).encode())


def read(run_dir: Path, ranks: Iterable[int], start: int) -> dict[int, Sighting]:
    """By rank, of one start of the run; ranks that never said anything in it are missing."""
    found = {}
    for rank in ranks:
        try:
            found[rank] = Sighting(**json.loads(_file(run_dir, start, rank).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue  # never written, or not readable now: nothing is known of it
    return found


def forget(run_dir: Path, before: int) -> None:
    """Removes what was seen in starts of lower numbers."""
    for path in (run_dir / _DIRECTORY).glob("start_*"):
        number = path.name.removeprefix("start_")
        if number.isdecimal() and int(number) < before:
            shutil.rmtree(path, ignore_errors=True)


def summary(seen: Mapping[int, Sighting], world_size: int, limit_seconds: float) -> str:
    """Tells what a person needs to know of a hang: which ranks say nothing, and which are elsewhere than most. Pure."""
    hung = [seen[rank] for rank in sorted(seen) if seen[rank].hung]
    silent = [rank for rank in range(world_size) if rank not in seen or not seen[rank].hung]
    head = f"no progress for {limit_seconds:.0f} s: {len(hung)} of {world_size} ranks wait"
    lines = [head + (f", {ranks_text(silent)} said nothing" if silent else "")]
    lines += [f"  {_last_seen(rank, seen.get(rank))}" for rank in silent[:MAX_LINES]]
    if len(silent) > MAX_LINES:
        lines.append(f"  and {len(silent) - MAX_LINES} more that said nothing")
    groups: dict[tuple[str, str | None], list[Sighting]] = defaultdict(list)
    for sighting in hung:
        groups[sighting.doing, sighting.collective].append(sighting)
    # Those that differ from most come first.
    ordered = sorted(groups.values(), key=len)
    for number, group in enumerate(ordered[:MAX_LINES], start=1):
        lines.append(f"  {_together(group, differs=number < len(ordered))}")
    return "\n".join(lines)


def _file(run_dir: Path, start: int, rank: int) -> Path:
    return run_dir / _DIRECTORY / f"start_{start}" / f"rank_{rank:05d}.json"


def ranks_text(ranks: Iterable[int]) -> str:
    """`rank 3`, or `ranks 0-2, 5`."""
    ranks = sorted(ranks)
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and rank == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], rank]
        else:
            spans.append([rank])
    text = ", ".join("-".join(map(str, span)) for span in spans)
    return f"rank {text}" if len(ranks) == 1 else f"ranks {text}"


def _last_seen(rank: int, sighting: Sighting | None) -> str:
    if sighting is None:
        return f"rank {rank}: not seen since the run started"
    clock = datetime.fromtimestamp(sighting.time)
    ago = max(0.0, time.time() - sighting.time)
    return (
        f"rank {rank}: last seen on {sighting.node}, process {sighting.pid}, at {clock:%H:%M:%S} ({ago:.0f} s ago), "
        f"{sighting.doing}"
    )


def _together(group: Sequence[Sighting], *, differs: bool) -> str:
    first = group[0]
    nodes = sorted({sighting.node for sighting in group})
    where = ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
    after = f", last in {first.collective}" if first.collective else ""
    return f"{ranks_text(s.rank for s in group)} ({where}): {first.doing}{after}" + (" -- differs" if differs else "")
