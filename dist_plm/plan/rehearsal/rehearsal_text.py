"""Writes what a rehearsal saw, for people and for programs. Needs no PyTorch."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from dist_plm.core.errors import count_of
from dist_plm.distributed.grid import AXES, Grid
from dist_plm.plan.interval import GIB

if TYPE_CHECKING:
    from dist_plm.plan.rehearsal.all_ranks import Rehearsal
    from dist_plm.plan.rehearsal.rank_rehearsal import RankRehearsal

_MIB = 2**20
#: Parts of the peak that are shown.
_MOST_PARTS = 12


def rehearsal_text(rehearsal: "Rehearsal", grid: Grid) -> str:
    """Writes the tables."""
    worst = max(rehearsal.ranks.values(), key=lambda one: one.peak_bytes)
    degrees = " × ".join(f"{axis} {getattr(grid, axis)}" for axis in AXES if getattr(grid, axis) > 1) or "one rank"
    calls = sum(len(one.ledger) for one in rehearsal.ranks.values())
    count = len(rehearsal.ranks)
    lines = [
        f"rehearsed {count:,} of {count_of(rehearsal.world_size, 'rank', ',')} ({degrees}), "
        f"{count_of(worst.microbatches, 'microbatch')} a step",
        f"{calls:,} collectives and messages agree between them"
        if not rehearsal.problems
        else count_of(len(rehearsal.problems), "problem"),
        "",
        *_table(_rank_rows(rehearsal, grid)),
        "",
        f"peak of rank {worst.rank}, {worst.peak_bytes / GIB:.3g} GiB at {worst.peak_at}:",
        *_table([["  part", "MiB"], *_parts(worst)]),
        "",
        f"a rank sends in a step, rank {worst.rank}:",
        *_table([["  over", "calls", "MiB"], *_axes(worst, grid)]),
        "",
        f"reads {worst.reads['from']}: rank {worst.rank} samples {_span(worst)} in the first step, "
        f"{_mib(worst.reads['bytes'])} MiB",
        f"saves {count_of(worst.writes.get('tensors', 0), 'tensor', ',')} in "
        f"{count_of(worst.writes.get('boxes', 0), 'box', ',')}, "
        f"{_mib(worst.writes.get('bytes', 0))} MiB (rank {worst.rank}, holding {worst.saving_bytes / GIB:.3g} GiB meanwhile)",
        "process groups are made in "
        + ", ".join(f"{s:.2g} s of {count_of(n, 'rank', ',')}" for n, s in rehearsal.growth.items()),
        f"took {rehearsal.seconds:.0f} s in {count_of(rehearsal.processes, 'process')} of at most "
        f"{max(one.process_bytes for one in rehearsal.ranks.values()) / GIB:.2f} GiB",
    ]
    return "\n".join(line.rstrip() for line in lines)


def rehearsal_json(rehearsal: "Rehearsal", grid: Grid) -> dict[str, Any]:
    """Gives the same, fit for JSON, with every rank's ledger."""
    return {
        "world_size": rehearsal.world_size,
        "grid": {axis: getattr(grid, axis) for axis in AXES},
        "problems": list(rehearsal.problems),
        "group_seconds": {str(size): seconds for size, seconds in rehearsal.growth.items()},
        "seconds": rehearsal.seconds,
        "processes": rehearsal.processes,
        "ranks": {str(rank): _rank_json(one, grid) for rank, one in rehearsal.ranks.items()},
    }


def _rank_json(one: "RankRehearsal", grid: Grid) -> dict[str, Any]:
    return {
        "place": one.place,
        "peak_bytes": one.peak_bytes,
        "peak_at": one.peak_at,
        "peak_by_part": one.peak,
        "saving_bytes": one.saving_bytes,
        "microbatches": one.microbatches,
        "launches": one.launches,
        "bytes_sent_by_axis": {axis: sent for axis, (_, sent) in sent_by_axis(one, grid).items()},
        "reads": one.reads,
        "writes": one.writes,
        "seconds": one.seconds,
        "process_bytes": one.process_bytes,
        "ledger": [
            {
                "operation": call.operation,
                "group": list(call.group),
                "tensors": [[payload.dtype, list(payload.shape)] for payload in call.payload],
                "detail": call.detail,
                "peer": call.peer,
                "when": call.when,
                "where": call.where,
            }
            for call in one.ledger
        ],
    }


def sent_by_axis(one: "RankRehearsal", grid: Grid) -> dict[str, tuple[int, float]]:
    """Counts calls and bytes that a rank sends, by the axes along which the ranks of a group differ."""
    calls: Counter[str] = Counter()
    sent: dict[str, float] = {}
    for call in one.ledger:
        if len(call.group) > 1:
            axis = _axes_of(call.group, grid)
            calls[axis] += 1
            sent[axis] = sent.get(axis, 0.0) + call.bytes_sent
    return {axis: (calls[axis], sent[axis]) for axis in sorted(sent, key=lambda axis: -sent[axis])}


def _axes_of(group: tuple[int, ...], grid: Grid) -> str:
    places = [grid.coordinates(rank) for rank in (group[0], *group[-1:], group[1])]
    varying = [axis for number, axis in enumerate(AXES) if len({place[number] for place in places}) > 1]
    return " × ".join(varying)


def _rank_rows(rehearsal: "Rehearsal", grid: Grid) -> list[list[str]]:
    axes = [axis for axis in AXES if getattr(grid, axis) > 1]
    head = ["  rank", *axes, "peak GiB", "launches a microbatch", "forward", "backward", "update", "calls", "saves MiB"]
    rows = [head]
    for rank, one in rehearsal.ranks.items():
        forward, backward = (one.launches.get(phase, 0) // one.microbatches for phase in ("forward", "backward"))
        numbers = [forward + backward, forward, backward, one.launches.get("update", 0), len(one.ledger)]
        rows.append(
            [
                f"  {rank}",
                *(str(one.place[axis]) for axis in axes),
                f"{one.peak_bytes / GIB:.3g}",
                *(f"{number:,}" for number in numbers),
                _mib(one.writes.get("bytes", 0)),
            ]
        )
    return rows


def _parts(one: "RankRehearsal") -> list[list[str]]:
    parts = sorted(one.peak.items(), key=lambda part: -part[1])
    rest = sum(size for _, size in parts[_MOST_PARTS:])
    shown = [*parts[:_MOST_PARTS], *([("others", rest)] if rest else [])]
    return [[f"  {name}", _mib(size)] for name, size in shown if size]


def _axes(one: "RankRehearsal", grid: Grid) -> list[list[str]]:
    return [[f"  {axis}", f"{calls:,}", _mib(sent)] for axis, (calls, sent) in sent_by_axis(one, grid).items()]


def _span(one: "RankRehearsal") -> str:
    first, last = one.reads["samples"]
    return f"{first:,} to {last:,}"


def _mib(size: float) -> str:
    return f"{size / _MIB:,.1f}"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        row[0].ljust(widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
