"""Builds tables that a page shows of what a run measured at intervals, or was asked for: what the parts of a step take each
rank, and the longest operations of those that were profiled."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from dist_plm.core.parsing import is_number, load_json
from dist_plm.core.regular import open_regular

#: Beside metrics.jsonl: what the parts of steps took each rank.
STEP_PARTS = "step_parts.jsonl"
#: A folder of profiles.
PROFILES = "profiles"
_FIRST_BYTES, _MOST_BYTES, _MOST_RANKS, _MOST_PROFILES = 64 * 2**10, 8 * 2**20, 64, 8


def operations_file(rank: int) -> str:
    """Names the file, in the folder of profiles, of the longest operations of a rank."""
    return f"operations_{rank:05d}.json"


def tables_of(run_dir: Path) -> list[dict[str, Any]]:
    """Lists tables, each a `title` and `rows`, the first of which is its head; none where nothing was measured."""
    return [table for table in (_parts_of(run_dir), *operations_of(run_dir)) if table is not None]


def operations_of(run_dir: Path) -> list[dict[str, Any]]:
    """Lists a table of the longest operations for each rank that was profiled, of its last profile."""
    tables = (_operations_in(path) for path in sorted((run_dir / PROFILES).glob("operations_*.json"))[:_MOST_PROFILES])
    return [table for table in tables if table is not None]


def _operations_in(path: Path) -> dict[str, Any] | None:
    found = last_line(path)
    listed = found.get("operations") if found is not None else None
    if found is None or not isinstance(listed, list):
        return None
    rows = [
        [str(one.get(name, "")) for name in ("name", "calls", "host_ms", "device_ms")]
        for one in listed
        if isinstance(one, dict)
    ]
    title = f"Longest operations of steps {found.get('first')} to {found.get('last')} on rank {found.get('rank')}"
    return {"title": title, "rows": [["operation", "calls", "host, ms", "device, ms"], *rows]}


def _parts_of(run_dir: Path) -> dict[str, Any] | None:
    """Ranks by their own time, the slowest first, as they were measured last."""
    line = last_line(run_dir / STEP_PARTS)
    if line is None:
        return None
    seconds, nodes = line.get("seconds"), line.get("nodes")
    if not (
        isinstance(seconds, dict) and isinstance(nodes, list) and seconds and all(map(_is_column, seconds.values()))
    ):
        return None
    names = [str(name) for name in seconds]
    ranks = range(min(len(nodes), *map(len, seconds.values())))
    own = [sum(column[rank] for name, column in seconds.items() if name != "communication") for rank in ranks]
    slowest = sorted(ranks, key=own.__getitem__, reverse=True)[:_MOST_RANKS]
    rows = [
        [f"rank {rank}", str(nodes[rank]), *(f"{1000 * column[rank]:.2f}" for column in seconds.values())]
        for rank in slowest
    ]
    title = f"Parts of a step on each rank, in ms, before step {line.get('step')}; the slowest first"
    return {"title": title, "rows": [["rank", "node", *names], *rows]}


def _is_column(column: Any) -> bool:
    return isinstance(column, list) and all(is_number(value) and 0 <= value < 1e9 for value in column)


def last_line(path: Path) -> Mapping[str, Any] | None:
    """The mapping in the last whole line of a file; None where there is none."""
    try:
        with open_regular(path) as file:
            end, num_bytes = file.seek(0, os.SEEK_END), _FIRST_BYTES
            lines = _lines_from(file, end - num_bytes)
            while len(lines) < 3 and num_bytes < min(end, _MOST_BYTES):  # the last whole one may begin before
                num_bytes *= 2
                lines = _lines_from(file, end - num_bytes)
        value = load_json(lines[-2]) if len(lines) > 1 else None
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _lines_from(file: BinaryIO, start: int) -> list[bytes]:
    file.seek(max(start, 0))
    return file.read().split(b"\n")
