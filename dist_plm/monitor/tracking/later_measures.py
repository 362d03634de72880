"""`evaluations.jsonl`: what launch/evaluate.py measured of a run's checkpoints, a JSON object each time, for its trackers.

`metrics.jsonl` stays as training wrote it. Trackers that are filled from it anew get both.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dist_plm.core.files import atomic_writer, open_to_append
from dist_plm.core.regular import read_regular
from dist_plm.monitor.metrics_file import parse_record, read_metrics

FILE = "evaluations.jsonl"


def note_measures(run_dir: Path, step: int, measures: Mapping[str, float]) -> bool:
    """Adds what was measured of the checkpoint of a step; False where that is known already.

    Raises:
        OSError: the file cannot be read or written.
    """
    known = _by_step(run_dir).get(step, {})
    if all(known.get(name) == value for name, value in measures.items()):
        return False
    with open_to_append(run_dir / FILE) as file:
        file.write(json.dumps({"step": step, **measures}, allow_nan=False).encode() + b"\n")
    return True


def records_of(run_dir: Path, step: int) -> list[dict[str, Any]]:
    """Gives the records of a run up to a step, in their order, each with what was measured of its step later."""
    metrics = run_dir / "metrics.jsonl"
    records = read_metrics(metrics) if step > 0 and metrics.exists() else []
    found = {record["step"]: record for record in records if record["step"] <= step}
    for measured, values in _by_step(run_dir).items():
        if measured <= step:
            found[measured] = {"step": measured, **found.get(measured, {}), **values}
    return [found[number] for number in sorted(found)]


def take_back(run_dir: Path, step: int, names: Collection[str]) -> None:
    """Leaves out what `note_measures` added."""
    found = _by_step(run_dir)
    found[step] = {name: value for name, value in found.get(step, {}).items() if name not in names}
    _write(run_dir, found)


def forget_measures(run_dir: Path, step: int) -> None:
    """Leaves out what was measured of steps after `step`, which are taken again."""
    if not (run_dir / FILE).exists():
        return
    _write(run_dir, {number: values for number, values in _by_step(run_dir).items() if number <= step})


def _write(run_dir: Path, found: Mapping[int, Mapping[str, Any]]) -> None:
    with atomic_writer(run_dir / FILE) as file:
        for number, values in sorted(found.items()):
            if values:
                file.write(json.dumps({"step": number, **values}).encode() + b"\n")


def _by_step(run_dir: Path) -> dict[int, dict[str, Any]]:
    """Gives the newest value of each measure by step; lines that are no records are left out."""
    found: dict[int, dict[str, Any]] = {}
    try:
        lines = read_regular(run_dir / FILE).splitlines()
    except FileNotFoundError:
        return found
    for line in lines:
        record = parse_record(line)
        if record is not None:
            found.setdefault(record.pop("step"), {}).update(record)
    return found
