"""`evaluations.jsonl`: what launch/evaluate.py measured of a run's checkpoints, a JSON object each time, for its trackers.

`metrics.jsonl` stays as training wrote it. Trackers that are filled from it anew get both.

Measures that trackers have not all got yet are in lines with `"told": false`; once they have, the same follows without it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dist_plm.core.files import atomic_writer, open_to_append
from dist_plm.core.regular import read_regular
from dist_plm.monitor.metrics_file import parse_record, read_metrics

FILE = "evaluations.jsonl"


@dataclass(frozen=True, slots=True)
class _Measured:
    """Holds the newest value of each measure of a step, and which of them trackers may lack."""

    values: dict[str, Any] = field(default_factory=dict)
    untold: set[str] = field(default_factory=set)


def note_measures(run_dir: Path, step: int, measures: Mapping[str, float]) -> bool:
    """Adds what was measured of the checkpoint of a step, as not told yet; False where it was told already.

    Raises:
        OSError: the file cannot be read or written.
    """
    known = _by_step(run_dir).get(step, _Measured())
    if all(known.values.get(name) == value and name not in known.untold for name, value in measures.items()):
        return False
    _append(run_dir, {"step": step, **measures, "told": False})
    return True


def note_told(run_dir: Path, step: int, measures: Mapping[str, float]) -> None:
    """Adds that all trackers have got what `note_measures` added.

    Raises:
        OSError: the file cannot be written.
    """
    _append(run_dir, {"step": step, **measures})


def records_of(run_dir: Path, step: int) -> list[dict[str, Any]]:
    """Gives the records of a run up to a step, in their order, each with what was measured of its step later."""
    metrics = run_dir / "metrics.jsonl"
    records = read_metrics(metrics) if step > 0 and metrics.exists() else []
    found = {record["step"]: record for record in records if record["step"] <= step}
    for number, measured in _by_step(run_dir).items():
        if number <= step:
            found[number] = {"step": number, **found.get(number, {}), **measured.values}
    return [found[number] for number in sorted(found)]


def forget_measures(run_dir: Path, step: int) -> None:
    """Leaves out what was measured of steps after `step`, which are taken again."""
    if not (run_dir / FILE).exists():
        return
    kept = {number: measured for number, measured in _by_step(run_dir).items() if number <= step}
    with atomic_writer(run_dir / FILE) as file:
        for number, measured in sorted(kept.items()):
            told = {name: value for name, value in measured.values.items() if name not in measured.untold}
            untold = {name: measured.values[name] for name in sorted(measured.untold)}
            lines = [*([told] if told else []), *([{**untold, "told": False}] if untold else [])]
            file.writelines(json.dumps({"step": number, **line}).encode() + b"\n" for line in lines)


def _append(run_dir: Path, record: Mapping[str, Any]) -> None:
    with open_to_append(run_dir / FILE) as file:
        file.write(json.dumps(record, allow_nan=False).encode() + b"\n")


def _by_step(run_dir: Path) -> dict[int, _Measured]:
    """Gives what was measured by step; lines that are no records are left out."""
    found: dict[int, _Measured] = {}
    try:
        lines = read_regular(run_dir / FILE).splitlines()
    except FileNotFoundError:
        return found
    for line in lines:
        record = parse_record(line)
        if record is not None:
            measured = found.setdefault(record.pop("step"), _Measured())
            was_told = record.pop("told", True)
            measured.values.update(record)
            (measured.untold.update if was_told is False else measured.untold.difference_update)(record)
    return found
