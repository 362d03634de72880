"""Where the time of a step goes: the longest kernels, the gaps between them, and what the host does meanwhile."""

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_models import Workload, our_step
from gpu_timing import Notes, finish, kernels_of, profiled, union

from dist_plm.distributed.groups import Groups

ROWS = 25


def profile(notes: Notes, groups: Groups, out: Path, *, quick: bool, small: bool) -> None:
    """Steps of ours, taken apart; a trace of each lies in `out`, for chrome://tracing."""
    device = groups.device.torch_device
    for name in ("bert_large",) if quick else ("bert_large", "gpt2_medium"):
        step = our_step(Workload.of(name, small=small), groups)
        for _ in range(3):
            step()
        finish(device)
        found = profiled(step, device)
        found.export_chrome_trace(str(out / f"trace_{name}.json"))
        on_the_device(notes, f"profile of {name}", found)
        on_the_host(notes, f"the host in a step of {name}", step)
        finish(device)


def on_the_device(notes: Notes, table: str, found: Any) -> None:
    kernels = kernels_of(found)
    if not kernels:  # of the CPU: its operations
        rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
        for row in rows[:ROWS]:
            notes.add(table, row.key[:80], calls=row.count, ms=row.self_cpu_time_total / 1e3)
        return
    sums: dict[str, list[float]] = {}
    for name, _, length in kernels:
        sums.setdefault(name, []).append(length)
    for name, lengths in sorted(sums.items(), key=lambda pair: -sum(pair[1]))[:ROWS]:
        notes.add(table, name[:80], calls=len(lengths), ms=sum(lengths) / 1e3)
    whole = max(begin + length for _, begin, length in kernels) - kernels[0][1]
    notes.add(
        table, "gaps between kernels", ms=(whole - union(kernels)) / 1e3, share=round(1 - union(kernels) / whole, 3)
    )


def on_the_host(notes: Notes, table: str, step: Callable[[], Any]) -> None:
    """Functions by their own time, which measuring makes longer; of the backward pass the part in this thread alone."""
    found = cProfile.Profile()
    found.runcall(step)
    rows: dict[Any, Any] = pstats.Stats(found).stats  # pyright: ignore[reportAttributeAccessIssue]
    for (file, line, name), (_, calls, own, whole, _) in sorted(rows.items(), key=lambda row: -row[1][2])[:ROWS]:
        place = f"{Path(file).name}:{line} {name}" if line else name
        notes.add(table, place[:80], calls=calls, ms=1e3 * own, with_called_ms=1e3 * whole)
