"""Reads what runs of GLUE reached, and makes the table of it: median and spread beside what was published."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_plm.cli.glue.glue_cells import Cell
from dist_plm.cli.glue.glue_tasks import GlueRecipe
from dist_plm.config.decode import decode
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.monitor.report import read_settings
from dist_plm.spec.schema_run import EarlyStoppingConfig

#: What a model makes of the other validation rows of MNLI, in a run's directory.
MISMATCHED = "mismatched.json"


@dataclass(frozen=True, slots=True)
class Reached:
    """Holds what a finished run reached, by measure, at the `step` whose checkpoint counts."""

    step: int
    measures: Mapping[str, float]


def reached(run_dir: Path) -> Reached | None:
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
        chosen = max(
            evaluated, key=lambda record: sign * record[f"eval/{best}"]
        )  # of equals the first, as checkpoints do
    measures = {name.removeprefix("eval/"): value for name, value in chosen.items() if name.startswith("eval/")}
    other = run_dir / MISMATCHED
    if other.is_file():
        measures["mismatched"] = json.loads(other.read_text(encoding="utf-8"))["results"]["accuracy"]
    return Reached(int(chosen["step"]), measures)


def _stopped_early(settings: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a run's evaluations had not got better for so long that it ended."""
    asked = "train.early_stopping."
    stops = {name.removeprefix(asked): value for name, value in settings.items() if name.startswith(asked)}
    if stops.get("patience") is None:
        return False
    from dist_plm.train.evaluation import Patience  # with PyTorch, and only runs that are cut short need it

    patience = Patience(decode(EarlyStoppingConfig, stops))
    for record in records:
        told = {name: value for name, value in record.items() if name.startswith("eval/")}
        measures = {name.removeprefix("eval/"): math.nan if value is None else value for name, value in told.items()}
        patience.note(record["step"], measures)
    return patience.is_over


def rows_of(cells: Sequence[Cell], found: Mapping[str, Reached], recipe: GlueRecipe) -> list[dict[str, Any]]:
    """A row for each task and measure, in per cent.

    Args:
        found: by the names of runs.
    """
    rows: list[dict[str, Any]] = []
    for task in dict.fromkeys(cell.task for cell in cells):
        own = [cell for cell in cells if cell.task == task]
        measures = [*own[0].glue.measures, *(["mismatched"] if own[0].other else [])]
        for measure in measures:
            values = {
                cell.seed: 100 * found[cell.name].measures[measure]
                for cell in own
                if cell.name in found and measure in found[cell.name].measures
            }
            published = recipe.published.get(task, {}).get(measure)
            rows.append({"task": task, "measure": measure, "published": published, "runs": values, **_spread(values)})
    return rows


def _spread(values: Mapping[int, float]) -> dict[str, float | None]:
    told = list(values.values())
    if not told:
        return {"median": None, "lowest": None, "highest": None}
    return {"median": statistics.median(told), "lowest": min(told), "highest": max(told)}


def rendered(rows: Sequence[Mapping[str, Any]], recipe: GlueRecipe) -> str:
    """The table for people."""
    lines: list[tuple[str, ...]] = [("task", "measure", "median", "lowest", "highest", "runs", "published")]
    for row in rows:
        numbers = (_number(row[name]) for name in ("median", "lowest", "highest"))
        lines.append((row["task"], row["measure"], *numbers, str(len(row["runs"])), _number(row["published"])))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*told, f"published: {recipe.source}"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
