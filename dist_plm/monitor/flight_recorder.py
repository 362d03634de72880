"""The last collective that this process entered, as flight recorders know it: PyTorch's of NCCL and gloo, and that of ours
through shared memory."""

import json
from pathlib import Path
from typing import Any

from torch._C import _distributed_c10d as c10d

from dist_plm.distributed.shared_memory.calls import entries as shared_entries

#: NCCL's first, whose collectives training waits for; the other knows gloo's alone. A CUDA build has both, earlier versions of
#: PyTorch and builds for the CPU one; where neither is there, nothing is known.
_DUMPS = ("_dump_nccl_trace_json", "_dump_fr_trace_json")
_COMPLETE = "completed"


def last_collective(record: dict[str, Any] | None) -> str | None:
    """One line: its name, number in its group, and group. None where there was none, or nothing is known."""
    entries = (record or {}).get("entries") or []
    if not entries:
        return None
    # One that is not complete is what a hang waits for, whatever gloo, whose calls never count as complete, has done since.
    entry = next((e for e in reversed(entries) if _is_open(e)), entries[-1])
    name, description = (*entry.get("process_group", ("?", "")), "", "")[:2]
    group = name if description in ("", "undefined") else description
    kind = "p2p_seq_id" if entry.get("is_p2p") else "collective_seq_id"
    return f"{entry.get('profiling_name', '?')} number {entry.get(kind, '?')} of group {group}"


def _is_open(entry: dict[str, Any]) -> bool:
    return entry.get("state", _COMPLETE) != _COMPLETE and not str(entry.get("profiling_name")).startswith("gloo:")


def flight_record() -> dict[str, Any] | None:
    """Reads what the recorders hold of this process: `entries` in the order of time. None where there is no recorder."""
    dumps = [dump for name in _DUMPS if (dump := getattr(c10d, name, None)) is not None]
    records = [json.loads(dump(includeCollectives=True, onlyActive=False)) for dump in dumps]
    shared = shared_entries()
    if not records and not shared:
        return None
    first = next((record for record in records if record.get("entries")), records[0] if records else {})
    entries = [*(entry for record in records for entry in record.get("entries") or []), *shared]
    return {**first, "entries": sorted(entries, key=lambda entry: entry.get("time_created_ns", 0))}


def write_flight_record(record: dict[str, Any], path: Path) -> None:
    """As PyTorch's tools for its analysis read it."""
    path.write_text(json.dumps(record), encoding="utf-8")
