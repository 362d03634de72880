"""Reads what a finished run reached."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dist_plm.config.decode import decode
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.monitor.report import read_settings
from dist_plm.spec.schema_run import EarlyStoppingConfig
from dist_plm.train.ending.patience import Patience


class RunEnd(NamedTuple):
    """Holds what a finished run reached, by measure, at the `step` whose checkpoint counts."""

    step: int
    measures: Mapping[str, float]


def run_end(run_dir: Path) -> RunEnd | None:
    """Tells what a run reached: at its best evaluation where it keeps the best checkpoint, else at its last. None where it is
    not finished."""
    settings = read_settings(run_dir / "run.yaml")
    metrics = run_dir / "metrics.jsonl"
    records = read_metrics(metrics) if metrics.is_file() else []
    steps = settings.get("train.stop_at") or settings.get("train.steps")
    if not records or steps is None or (records[-1]["step"] < steps and not _stopped_early(settings, records)):
        return None
    best = settings.get("checkpoint.keep_best")
    evaluated = [record for record in records if f"eval/{best or 'loss'}" in record]
    if not evaluated:
        return None
    chosen = evaluated[-1]
    if best is not None:
        sign = 1 if settings.get("checkpoint.best_is") == "highest" else -1
        told = {record["step"]: record[f"eval/{best}"] for record in evaluated}
        # Of equals the first, as checkpoints do; what is no number is never the best.
        numbers = {step: value for step, value in told.items() if value is not None and not math.isnan(value)}
        chosen = max(evaluated, key=lambda one: sign * numbers[one["step"]] if one["step"] in numbers else -math.inf)
    measures = {name.removeprefix("eval/"): value for name, value in chosen.items() if name.startswith("eval/")}
    return RunEnd(int(chosen["step"]), measures)


def _stopped_early(settings: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a run's evaluations had not got better for so long that it ended."""
    asked = "train.early_stopping."
    stops = {name.removeprefix(asked): value for name, value in settings.items() if name.startswith(asked)}
    if stops.get("patience") is None:
        return False
    patience = Patience(decode(EarlyStoppingConfig, stops))
    every, steps = settings.get("train.eval_every") or 1, settings.get("train.steps")
    for record in records:
        if record["step"] % every and record["step"] != steps:
            continue  # as the run itself did
        told = {name: value for name, value in record.items() if name.startswith("eval/")}
        measures = {name.removeprefix("eval/"): math.nan if value is None else value for name, value in told.items()}
        patience.note(record["step"], measures)
    return patience.is_over
