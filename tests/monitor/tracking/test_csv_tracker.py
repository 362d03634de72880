"""The table holds what metrics.jsonl holds, each step once, whatever comes when."""

import csv
import math
from pathlib import Path

import pytest

from dist_plm.monitor.metrics_file import MetricsWriter, read_metrics
from dist_plm.monitor.tracking.csv_tracker import CsvTracker
from tests.monitor.make import record


def log_steps(run_dir: Path, steps: range, start_step: int = 0, **changes) -> CsvTracker:
    metrics = MetricsWriter(run_dir / "metrics.jsonl", resume_step=start_step)
    tracker = CsvTracker(run_dir, start_step=start_step)
    for step in steps:
        evaluation = {"loss": 4.0, 'odd,"name': 1.0} if step % 3 == 0 else {}
        one = record(step, evaluation=evaluation, **changes)
        metrics.write(one)
        tracker.log(step, one.as_dict())
    return tracker


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def agrees(run_dir: Path) -> None:
    records = read_metrics(run_dir / "metrics.jsonl")
    assert [int(row["step"]) for row in rows(run_dir)] == [one["step"] for one in records]
    for row, one in zip(rows(run_dir), records, strict=True):
        assert {name: float(value) for name, value in row.items() if value} == pytest.approx(
            {name: value for name, value in one.items() if value is not None}, nan_ok=True
        )


def test_each_value_is_in_its_column(tmp_path):
    log_steps(tmp_path, range(1, 8)).close()
    agrees(tmp_path)
    assert rows(tmp_path)[2]["eval/loss"] == "4.0"
    assert rows(tmp_path)[3]["eval/loss"] == ""
    assert rows(tmp_path)[3]["loss_scale"] == ""


def test_a_run_that_was_killed_has_each_step_once(tmp_path):
    log_steps(tmp_path, range(1, 7))
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("7,1.0,torn")
    log_steps(tmp_path, range(5, 9), start_step=4, loss=1.25)
    agrees(tmp_path)
    assert [row["loss"] for row in rows(tmp_path)][3:6] == ["2.5", "1.25", "1.25"]


def test_a_new_start_begins_a_new_table(tmp_path):
    log_steps(tmp_path, range(1, 7))
    log_steps(tmp_path, range(1, 3))
    agrees(tmp_path)


def test_a_run_that_goes_back_takes_steps_again(tmp_path):
    tracker = log_steps(tmp_path, range(1, 7))
    tracker.rewind(2)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"]
    tracker.log(3, record(3).as_dict())
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3"]


def test_what_is_not_finite_is_named(tmp_path):
    log_steps(tmp_path, range(1, 2), loss=math.nan, grad_norm=math.inf)
    assert (rows(tmp_path)[0]["loss"], rows(tmp_path)[0]["grad_norm"]) == ("nan", "inf")
