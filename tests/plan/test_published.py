"""Plans are near what published runs measured, and docs/plan.md says how near."""

import csv
import statistics
from pathlib import Path

import pytest

from tools.plan_tables import by_source, gpus, memory_errors, published_runs, time_errors
from tools.published_runs import published
from tools.write_tables import parts

#: Beginning of a source -> the most that the median error of its steps may be. Its software is like what is modelled.
NEAR = {
    "Korthikanti": 0.05,
    "vTrain": 0.08,
    "NeMo": 0.06,
    "Megatron-Bridge": 0.08,
    "KempnerForge": 0.15,
    "torchtitan": 0.1,
    "Megatron-LM": 0.1,
    "NVIDIA DeepLearningExamples": 0.06,
}


@pytest.mark.parametrize("source", NEAR)
def test_half_of_a_sources_steps_are_near(source):
    runs = [run for (name, _), found in by_source().items() if name.startswith(source) for run in found]
    assert statistics.median(map(abs, time_errors(runs))) < NEAR[source]


def test_steps_are_near_on_the_whole():
    runs = [run for found in by_source().values() for run in found]
    assert len(runs) > 250
    assert statistics.median(map(abs, time_errors(runs))) < 0.06
    assert statistics.mean(map(abs, time_errors(runs))) < 0.08


def test_memory_is_near_on_the_whole():
    runs = [run for found in by_source().values() for run in found]
    assert statistics.mean(map(abs, memory_errors(runs))) < 0.12
    assert statistics.median(map(abs, memory_errors(runs))) < 0.07


def test_each_run_that_is_left_out_has_a_reason():
    runs, reasons = published()
    assert len(runs) + sum(reasons.values()) == 550


@pytest.mark.parametrize(("name", "render"), [("table of GPUs", gpus), ("published runs", published_runs)])
def test_the_page_shows_it(name, render):
    """`python -m tools.write_tables` writes it."""
    assert parts(name)[1].strip() == render().strip()


def test_the_table_of_predictions_is_what_plans_say():
    """`python bench/planner.py --write` writes it."""
    runs = {run.row: run for found in by_source().values() for run in found}
    with (Path(__file__).parents[2] / "bench/planner_predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == sorted(runs)
    for row in rows:
        run = runs[int(row["row"])]
        told = f"{run.step().seconds:.4g}", f"{run.predicted_gib():.1f}"
        assert (row["predicted"], row["predicted_gib"]) == told, row["row"]
