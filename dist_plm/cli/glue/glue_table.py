"""Reads what runs of GLUE reached, and makes the table of it: median and spread beside what was published."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_plm.cli.glue.glue_cells import Cell
from dist_plm.cli.glue.glue_tasks import GlueRecipe
from dist_plm.cli.sweeps.run_end import RunEnd, run_end
from dist_plm.monitor.formatting import table

#: What a model makes of the other validation rows of MNLI, in a run's directory.
MISMATCHED = "mismatched.json"


def reached(run_dir: Path) -> RunEnd | None:
    """Tells what a run of GLUE reached, on other rows too where these were measured; None where it is not finished."""
    told, other = run_end(run_dir), run_dir / MISMATCHED
    if told is None or not other.is_file():
        return told
    more = json.loads(other.read_text(encoding="utf-8"))["results"]["accuracy"]
    return told._replace(measures={**told.measures, "mismatched": more})


def rows_of(cells: Sequence[Cell], found: Mapping[str, RunEnd], recipe: GlueRecipe) -> list[dict[str, Any]]:
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
    return f"{table(lines)}\npublished: {recipe.source}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
