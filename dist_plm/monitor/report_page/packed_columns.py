"""Records as columns that a page can carry: 10⁵ steps of ten measures in about a megabyte.

A measure is told where a record has it: those of the same records are a group, which tells once which records these are. So
what is logged every hundredth step costs a hundredth, and keeps its points where the measures of each step are thinned.

Steps, seconds and whole numbers that have to be exact are differences of float64, everything else is float32 with 16 bits of
mantissa, five significant digits. Bytes of one place lie together, which is what lets gzip find what repeats.
assets/columns.js reads it.
"""

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.parsing import is_number
from dist_plm.monitor.metrics_file import seconds_after

#: Of numbers that a page holds, of all its runs: 200,000 records of what runs log each step. Longer columns are thinned.
MOST_VALUES = 2_600_000
#: Bits of a float32 that are not kept: of 23 in its mantissa.
_DROPPED_BITS = 7
#: Columns that each run has, whose values only grow: along them all others are drawn.
_GROWING = ("step", "tokens_seen", "seconds")
#: Whole numbers up to it are exact in any column.
_EXACT = 2**16
#: Lines on the page, which each cost a column: some of each layer of the deepest models.
_MOST_NAMES = 1000


@dataclass(frozen=True, slots=True)
class _Group:
    """Holds measures that the same records have.

    Attributes:
        records: the numbers of these records, growing, [n].
        columns: their values by name, [n] each.
    """

    records: NDArray[np.int64]
    columns: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def thinned(self, most: int) -> "_Group":
        """Leaves about `most` points: the last and the highest of each stretch, and the first."""
        every = math.ceil(len(self.records) / most)
        if every <= 1:
            return self
        stretch, heights = 2 * every, _heights(self.columns)
        starts = np.arange(0, len(self.records), stretch)
        padded = np.full(len(starts) * stretch, -math.inf)
        padded[: len(heights)] = heights
        highest = starts + padded.reshape(len(starts), stretch).argmax(axis=1)
        last = np.minimum(starts + stretch, len(self.records)) - 1
        kept = np.unique(np.concatenate([[0], highest, last]))
        return _Group(self.records[kept], {name: values[kept] for name, values in self.columns.items()})


def columns_of(
    records: Sequence[Mapping[str, Any]], *, most: int = MOST_VALUES, seconds: Sequence[float] | None = None
) -> dict[str, Any]:
    """Columns of a run's records, fit for JSON.

    Args:
        most: numbers that there may be, about; where there are more, the longest columns are thinned, each alike.
        seconds: in steps up to each record; None: the records are a run's from its beginning.
    Returns:
        `rows`, the number of records that something is told of; `groups`, of columns in their order in `data`: the `names` of
        each, how many of them are `exact`, float64, and of how many `points`; where these are not all rows, their numbers come
        first, as float64. The first group are steps, tokens and seconds. `data`, gzip in base64; `odd`, (row, name, value) of
        values that are not finite, which are nan in `data`; `every`, how many points of the longest column each of its points
        stands for, about.
    """
    seconds = elapsed_seconds(records) if seconds is None else seconds
    groups = groups_of(records)
    counts = [len(group.records) for group in groups for _ in group.columns]
    points = most_points([*counts, *(len(records) for _ in _GROWING)], most)
    kept = [group.thinned(points) for group in groups]
    rows = np.unique(np.concatenate([group.records for group in kept])) if kept else np.arange(0)
    told_of = rows.tolist()
    axes = {
        "step": [records[row]["step"] for row in told_of],
        "tokens_seen": [records[row]["tokens_seen"] for row in told_of],
        "seconds": [seconds[row] for row in told_of],
    }
    told = [{"names": list(axes), "exact": len(axes), "points": len(rows)}]
    parts = [_differences(values) for values in axes.values()]
    odd: list[tuple[int, str, str]] = []
    for group in kept:
        places = np.searchsorted(rows, group.records)
        exact = [name for name, values in group.columns.items() if _is_whole(values)]
        names = [*exact, *(name for name in group.columns if name not in exact)]
        told.append({"names": names, "exact": len(exact), "points": len(places)})
        parts += [] if len(places) == len(rows) else [_differences(places)]
        for name in names:
            values = group.columns[name]
            parts.append(_differences(values) if name in exact else _planes(_rounded(values)))
            odd += [(int(places[at]), name, str(float(values[at]))) for at in np.flatnonzero(~np.isfinite(values))]
    longest = max(counts, default=0)
    return {
        "rows": len(rows),
        "groups": told,
        "data": base64.b64encode(gzip.compress(b"".join(parts), compresslevel=6, mtime=0)).decode(),
        "odd": odd,
        "every": max(math.ceil(longest / points), 1) if longest else 1,
    }


def groups_of(records: Sequence[Mapping[str, Any]]) -> list[_Group]:
    """Groups the measures of records by which records have them, in the order of their first appearance."""
    cells: dict[str, tuple[list[int], list[float]]] = {}
    for number, record in enumerate(records):
        for name, value in record.items():
            if name in _GROWING or not is_number(value):
                continue
            if name not in cells:
                if len(cells) == _MOST_NAMES:
                    continue
                cells[name] = ([], [])
            places, values = cells[name]
            places.append(number)
            values.append(float(value))
    groups: dict[bytes, _Group] = {}
    for name, (places, values) in cells.items():
        numbers = np.asarray(places, dtype=np.int64)
        group = groups.setdefault(numbers.tobytes(), _Group(numbers))
        group.columns[name] = np.asarray(values, dtype=np.float64)
    return list(groups.values())


def elapsed_seconds(records: Sequence[Mapping[str, Any]], begun_after: int = 0) -> list[float]:
    """Seconds in steps up to each record.

    Args:
        begun_after: the step after which the run made its first one.
    """
    befores = [begun_after, *(record["step"] for record in records)]
    return list(accumulate(map(seconds_after, befores, records)))


def most_points(counts: Sequence[int], most: int) -> int:
    """How many points a column may have, at least 1, for columns of so many points to be at most `most` together: the short
    ones keep theirs, and the long ones share what these leave."""
    left = most
    for place, count in enumerate(sorted(counts)):
        share = left // (len(counts) - place)
        if count > share:
            return max(share, 1)
        left -= count
    return max([1, *counts])


def _heights(columns: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """By what the points of a group that stay are chosen: their loss, else the largest of their values, each by the largest of
    its column; what is not finite is above all."""
    finite = {name: np.where(np.isfinite(values), values, 0.0) for name, values in columns.items()}
    scaled = (
        [finite["loss"]] if "loss" in finite else [values / (abs(values).max() or 1.0) for values in finite.values()]
    )
    heights = np.maximum.reduce(scaled)
    for values in columns.values():
        heights[~np.isfinite(values)] = math.inf
    return heights


def _is_whole(values: NDArray[np.float64]) -> bool:
    """Whether all values are whole numbers, of which some would be rounded in 16 bits."""
    if not np.isfinite(values).all():
        return False
    largest = abs(values).max(initial=0.0)
    return bool(_EXACT < largest < 2**53 and (values == np.floor(values)).all())


def _differences(values: Any) -> bytes:
    return _planes(np.diff(np.asarray(values, dtype="<f8"), prepend=0.0))


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """float32 with the last bits of the mantissa rounded away; what no float32 holds is the nearest that one does, and what is
    not finite is nan."""
    largest = float(np.finfo(np.float32).max)
    narrow = np.where(np.isfinite(values), np.clip(values, -largest, largest), math.nan).astype("<f4")
    bits = narrow.view("<u4").astype(np.uint64)
    half = 1 << (_DROPPED_BITS - 1)
    rounded = ((bits + half) >> _DROPPED_BITS << _DROPPED_BITS).astype("<u4").view("<f4")
    return np.where(np.isfinite(narrow) & np.isfinite(rounded), rounded, narrow).astype("<f4")


def _planes(values: NDArray[Any]) -> bytes:
    """The first bytes of all values, then their second bytes, and so on."""
    return values.view(np.uint8).reshape(len(values), values.itemsize).T.tobytes()
