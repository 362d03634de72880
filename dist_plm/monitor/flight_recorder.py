"""The last collective that this process entered, as PyTorch's flight recorder knows it: on NCCL and on gloo."""

import json
from pathlib import Path
from typing import Any

from torch._C import _distributed_c10d as c10d

#: Of PyTorch 2.13 and of earlier ones; where neither is there, nothing is known.
_DUMPS = ("_dump_fr_trace_json", "_dump_nccl_trace_json")


def last_collective(record: dict[str, Any] | None) -> str | None:
    """One line: its name, number in its group, and group. None where there was none, or nothing is known."""
    entries = (record or {}).get("entries") or []
    if not entries:
        return None
    entry = entries[-1]
    name, description = (*entry.get("process_group", ("?", "")), "", "")[:2]
    group = name if description in ("", "undefined") else description
    kind = "p2p_seq_id" if entry.get("is_p2p") else "collective_seq_id"
    return f"{entry.get('profiling_name', '?')} number {entry.get(kind, '?')} of group {group}"


def flight_record() -> dict[str, Any] | None:
    """Reads what the recorder holds of this process: `entries` in their order. None where there is no recorder."""
    for name in _DUMPS:
        dump = getattr(c10d, name, None)
        if dump is not None:
            return json.loads(dump(includeCollectives=True, onlyActive=False))
    return None


def write_flight_record(record: dict[str, Any], path: Path) -> None:
    """As PyTorch's tools for its analysis read it."""
    path.write_text(json.dumps(record), encoding="utf-8")
