"""Records as columns that a page can carry: 10⁵ steps of ten measures in about a megabyte.

Steps, seconds and whole numbers that have to be exact are differences of float64, everything else is float32 with 16 bits of
mantissa, five significant digits. Bytes of one place lie together, which is what lets gzip find what repeats.
assets/columns.js reads it.
"""

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dist_plm.core.parsing import is_number

#: Of numbers that a page holds, of all its runs: 200,000 records of what most runs log. Longer ones are thinned.
MOST_VALUES = 2_600_000
#: Bits of a float32 that are not kept: of 23 in its mantissa.
_DROPPED_BITS = 7
#: Columns that each run has, whose values only grow.
_GROWING = ("step", "tokens_seen", "seconds")
#: Whole numbers up to it are exact in any column.
_EXACT = 2**16
#: What a record that stays has.
_NEVER_LEFT_OUT = ("eval/", "heal/")
#: Lines on the page, which each cost a column; a file with more names was not written by a run.
_MOST_NAMES = 200


def columns_of(
    records: Sequence[Mapping[str, Any]], *, most: int = MOST_VALUES, seconds: Sequence[float] | None = None
) -> dict[str, Any]:
    """Columns of a run's records, fit for JSON.

    Args:
        most: numbers that there may be, about.
        seconds: in steps up to each record; None: the records are a run's from its beginning.
    Returns:
        `rows`, their number; `names`, of the columns in their order in `data`; `exact`, how many of them are float64;
        `data`, gzip in base64: nan stands where a record has no value; `odd`, (row, name, value) of values that are not finite;
        `every`, how many logged records each row stands for.
    """
    seconds = elapsed_seconds(records) if seconds is None else seconds
    others = [name for name in names_of(records) if name not in _GROWING]
    every = max(math.ceil(len(records) * (len(_GROWING) + len(others)) / most), 1)
    rows = thinned(records, every)
    whole = [name for name in others if _is_whole([records[row].get(name) for row in rows])]
    exact = {
        "step": [records[row]["step"] for row in rows],
        "tokens_seen": [records[row]["tokens_seen"] for row in rows],
        "seconds": [seconds[row] for row in rows],
        **{name: [records[row][name] for row in rows] for name in whole},
    }
    parts = [_planes(np.diff(np.asarray(values, dtype="<f8"), prepend=0.0)) for values in exact.values()]
    odd: list[tuple[int, str, str]] = []
    rounded = [name for name in others if name not in whole]
    for name in rounded:
        values = np.asarray([_number(records[row].get(name)) for row in rows], dtype=np.float64)
        odd += [
            (place, name, str(float(records[rows[place]][name])))
            for place in np.flatnonzero(~np.isfinite(values)).tolist()
            if is_number(records[rows[place]].get(name))
        ]
        parts.append(_planes(_rounded(values)))
    return {
        "rows": len(rows),
        "names": [*exact, *rounded],
        "exact": len(exact),
        "data": base64.b64encode(gzip.compress(b"".join(parts), compresslevel=6, mtime=0)).decode(),
        "odd": odd,
        "every": every,
    }


def names_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names under which a record has a number, in the order of their first appearance."""
    names: dict[str, None] = {}
    for record in records:
        for name, value in record.items():
            if name not in names and is_number(value) and len(names) < _MOST_NAMES:
                names[name] = None
    return list(names)


def elapsed_seconds(records: Sequence[Mapping[str, Any]]) -> list[float]:
    """Seconds in steps up to each record: its mean times the steps it stands for, added up."""
    total, before, found = 0.0, 0, []
    for record in records:
        total += record["step_seconds"] * max(record["step"] - before, 0)
        before = record["step"]
        found.append(total)
    return found


def thinned(records: Sequence[Mapping[str, Any]], every: int) -> list[int]:
    """Numbers of the records that stand for `every` each: the last and the highest loss of each stretch, whatever was evaluated
    or healed, and what is not finite."""
    if every <= 1:
        return list(range(len(records)))
    stretch = 2 * every
    kept = {0, len(records) - 1}
    for first in range(0, len(records), stretch):
        last = min(first + stretch, len(records)) - 1
        kept |= {last, max(range(first, last + 1), key=lambda row: _ranked(records[row]["loss"]))}
    kept |= {row for row, record in enumerate(records) if any(name.startswith(_NEVER_LEFT_OUT) for name in record)}
    return sorted(kept)


def _ranked(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf


def _is_whole(values: Sequence[Any]) -> bool:
    """Whether all values are whole numbers, of which some would be rounded in 16 bits."""
    numbers = [float(value) for value in values if is_number(value)]
    return (
        len(numbers) == len(values)
        and all(number.is_integer() and abs(number) < 2**53 for number in numbers)
        and max(map(abs, numbers), default=0) > _EXACT
    )


def _number(value: Any) -> float:
    return float(value) if is_number(value) else math.nan


def _rounded(values: np.ndarray) -> np.ndarray:
    """float32 with the last bits of the mantissa rounded away; what no float32 holds is the nearest that one does."""
    largest = float(np.finfo(np.float32).max)
    narrow = np.where(np.isfinite(values), np.clip(values, -largest, largest), values).astype("<f4")
    bits = narrow.view("<u4").astype(np.uint64)
    half = 1 << (_DROPPED_BITS - 1)
    rounded = ((bits + half) >> _DROPPED_BITS << _DROPPED_BITS).astype("<u4").view("<f4")
    return np.where(np.isfinite(narrow) & np.isfinite(rounded), rounded, narrow).astype("<f4")


def _planes(values: np.ndarray) -> bytes:
    """The first bytes of all values, then their second bytes, and so on."""
    return values.view(np.uint8).reshape(len(values), values.itemsize).T.tobytes()
