"""MLflow's own client reads back what a run gave it."""

import os
import socket
import sys
from pathlib import Path

import pytest

from dist_plm.core.errors import UserError
from dist_plm.monitor.metrics_file import MetricsWriter
from dist_plm.monitor.trackers import build_trackers
from dist_plm.monitor.tracking import mlflow_tracker
from dist_plm.monitor.tracking.mlflow_tracker import MlflowTracker
from dist_plm.spec.schema_run import TrackConfig
from tests.monitor.make import record

mlflow = pytest.importorskip("mlflow")
SETTINGS = {"optim": {"lr": 3e-4, "betas": [0.9, 0.99]}, "run": {"name": "small"}}
CONFIG = TrackConfig(to=("mlflow",))


def begun(run_dir: Path, steps: range, start_step: int = 0) -> MlflowTracker:
    """A run that has logged steps, and was killed unless the tracker is closed."""
    metrics = MetricsWriter(run_dir / "metrics.jsonl", resume_step=start_step)
    tracker = MlflowTracker(CONFIG, run_dir, run_name="small", settings=SETTINGS, start_step=start_step)
    for step in steps:
        one = record(step, evaluation={"loss": 4.0} if step % 5 == 0 else {})
        metrics.write(one)
        tracker.log(step, one.as_dict())
    return tracker


def runs_of(run_dir: Path) -> list:
    client = mlflow.MlflowClient(tracking_uri=(run_dir / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("dist_plm")
    return client.search_runs([experiment.experiment_id])


def history(run_dir: Path, run_id: str, name: str) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(tracking_uri=(run_dir / "mlflow").as_uri())
    return [(one.step, one.value) for one in client.get_metric_history(run_id, name)]


def test_a_run_that_was_killed_is_one_run_with_each_step_once(tmp_path):
    begun(tmp_path, range(1, 7))
    tracker = begun(tmp_path, range(5, 9), start_step=4)
    page = tmp_path / "report.html"
    page.write_text("x")
    tracker.keep(page, "text")
    tracker.close(0)
    (run,) = runs_of(tmp_path)
    assert (run.info.run_name, run.info.status) == ("small", "FINISHED")
    assert history(tmp_path, run.info.run_id, "loss") == [(step, pytest.approx(10 / step)) for step in range(1, 9)]
    assert history(tmp_path, run.info.run_id, "eval/loss") == [(5, 4.0)]
    assert "loss_scale" not in run.data.metrics
    assert run.data.params["optim.lr"] == "0.0003"
    assert run.data.params["optim.betas"] == "[0.9, 0.99]"
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["report.html"]


def test_what_a_rollback_was_is_told_at_the_next_new_step(tmp_path):
    tracker = begun(tmp_path, range(1, 7))
    tracker.rewind(3)
    for step in range(4, 9):
        tracker.log(step, {**record(step).as_dict(), **({"heal/rollbacks": 1} if step == 4 else {})})
    tracker.close()
    (run,) = runs_of(tmp_path)
    assert history(tmp_path, run.info.run_id, "heal/rollbacks") == [(7, 1.0)]
    assert [step for step, _ in history(tmp_path, run.info.run_id, "loss")] == list(range(1, 9))


def test_it_says_how_the_run_ended(tmp_path):
    begun(tmp_path, range(1, 3)).close(2)
    for code, status in (
        (75, "KILLED"),
        (124, "FAILED"),
        (1, "FAILED"),
        (130, "KILLED"),
        (None, "KILLED"),
        (0, "FINISHED"),
    ):
        tracker = begun(tmp_path, range(0), start_step=2)
        assert [run.info.status for run in runs_of(tmp_path)] == ["RUNNING"]
        tracker.close(code)
        assert [run.info.status for run in runs_of(tmp_path)] == [status]
    begun(tmp_path, range(0), start_step=2)
    begun(tmp_path, range(0), start_step=2).close(None)
    assert [run.info.status for run in runs_of(tmp_path)] == ["RUNNING"], "what is measured meanwhile ends no run"


@pytest.mark.parametrize("code", [0, 75, None])
def test_what_is_told_of_it_later_neither_begins_nor_ends_it(tmp_path, code):
    """Not while it is told either: that may be killed."""
    tracker = begun(tmp_path, range(1, 4))
    if code is not None:
        tracker.close(code)
    (before,) = runs_of(tmp_path)
    later = build_trackers(CONFIG, tmp_path, run_name="small", settings=SETTINGS, start_step=3, goes_on=False)
    assert [run.info.status for run in runs_of(tmp_path)] == [before.info.status]
    later.tell(3, {"eval/law/loss": 2.5})
    later.close()
    (now,) = runs_of(tmp_path)
    assert (now.info.status, now.info.end_time) == (before.info.status, before.info.end_time)
    assert history(tmp_path, now.info.run_id, "eval/law/loss") == [(3, 2.5)]
    assert (now.info.end_time is None) == (code is None)


def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    """It takes connections and never answers: MLflow's own patience is a quarter of an hour."""
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "")  # for the end of the test to put back what was
        monkeypatch.delenv(name)
    monkeypatch.setattr(mlflow_tracker, "_PATIENCE", {**mlflow_tracker._PATIENCE, "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = TrackConfig(to=("mlflow",), mlflow_uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(mlflow.exceptions.MlflowException, match=r"timed out|Max retries"):
            MlflowTracker(config, tmp_path, run_name="small", settings=SETTINGS)
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"


def test_what_it_lacks_is_made_up_for(tmp_path):
    begun(tmp_path, range(1, 3)).close()
    with MetricsWriter(tmp_path / "metrics.jsonl", resume_step=2) as metrics:  # as without a tracker
        for step in (3, 4):
            metrics.write(record(step))
    begun(tmp_path, range(5, 6), start_step=4)
    (run,) = runs_of(tmp_path)
    assert [step for step, _ in history(tmp_path, run.info.run_id, "loss")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("damage", ["", "../..", "\xff"])
def test_an_id_that_cannot_be_one_begins_a_new_run(tmp_path, damage):
    begun(tmp_path, range(1, 3))
    (tmp_path / "mlflow" / "run_id").write_bytes(damage.encode("latin-1"))
    begun(tmp_path, range(3, 4), start_step=2)
    assert [run.data.params["optim.lr"] for run in runs_of(tmp_path)] == ["0.0003"] * 2
    new = (tmp_path / "mlflow" / "run_id").read_text().strip()
    assert [step for step, _ in history(tmp_path, new, "loss")] == [1, 2, 3]


def test_without_mlflow_training_goes_on_and_says_what_to_install(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match="pip install mlflow-skinny"):
        MlflowTracker(CONFIG, tmp_path, run_name="small", settings={})
    tracker = build_trackers(CONFIG, tmp_path, run_name="small", settings=SETTINGS)
    tracker.log(1, record(1).as_dict())
    tracker.keep(tmp_path / "x", "")
    tracker.close()
    assert caplog.text.count("mlflow failed") == 1
