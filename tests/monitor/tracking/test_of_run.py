"""What is measured of a run's checkpoints later on is at their steps in its trackers, once, and stays when the run goes on."""

import csv
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_plm.core.errors import DataError
from dist_plm.monitor import trackers
from dist_plm.monitor.tracking.of_run import tracked_run
from dist_plm.monitor.wandb_tracker import _LastEnd
from tests.monitor.test_trackers import (
    Failing,
    artifacts_in_wandb,
    ends_in_wandb,
    killed,
    log_steps,
    settings_in_wandb,
    wandb_history,
)
from tests.monitor.wandb_server import serving

NAME = "eval/law/loss"


def settings(run_dir: Path, *to: str) -> dict:
    return {"run": {"name": "small", "dir": str(run_dir)}, "track": {"to": list(to)}}


def given(run_dir: Path, value: float, *to: str, step: int = 4) -> str:
    return tracked_run(str(run_dir), settings(run_dir, *to), "runs/x", step).give("law", {"loss": value})


def cells(run_dir: Path) -> list[tuple[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [(row["step"], row[NAME]) for row in csv.DictReader(file) if row.get(NAME)]


def points(run_dir: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    return [(event.step, round(event.value, 3)) for event in events.Scalars(name)]


def in_mlflow(run_dir: Path, name: str) -> list[tuple[int, float]]:
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(tracking_uri=(run_dir / "mlflow").as_uri())
    run_id = (run_dir / "mlflow" / "run_id").read_text().strip()
    return [(one.step, one.value) for one in client.get_metric_history(run_id, name)]


def test_they_are_at_the_step_of_the_checkpoint_once_and_stay(tmp_path):
    to = ("csv", "tensorboard", "mlflow")
    log_steps(to, tmp_path, range(1, 8))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    time.sleep(1.1)  # readers of event files order them by the second of their start
    for told in ("got them", "had them already"):
        assert f"csv, tensorboard, mlflow of {tmp_path} {told}, as eval/law/… at step 4" in given(tmp_path, 2.5, *to)
        assert cells(tmp_path) == [("4", "2.5")]
        assert points(tmp_path, NAME) == in_mlflow(tmp_path, NAME) == [(4, 2.5)]
    assert [step for step, _ in points(tmp_path, "loss")] == [*range(1, 8)]
    assert [step for step, _ in in_mlflow(tmp_path, "loss")] == [*range(1, 8)]
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    log_steps(("csv", "mlflow"), tmp_path, range(6, 10), start_step=5)
    assert cells(tmp_path) == [("4", "2.5")]
    assert in_mlflow(tmp_path, NAME) == [(4, 2.5)]
    log_steps(("csv",), tmp_path, range(1, 6))
    log_steps(("csv",), tmp_path, range(6, 8), start_step=5)
    assert cells(tmp_path) == [], "a new start in an old directory is another run"


def test_a_tracker_that_fails_is_named_and_gets_them_the_next_time(tmp_path, monkeypatch):
    to = ("csv", "mlflow")
    log_steps(("csv",), tmp_path, range(1, 8))
    with monkeypatch.context() as broken:
        broken.setattr(trackers, "MlflowTracker", Failing)
        told = given(tmp_path, 2.5, *to)
    assert told == (
        f"csv of {tmp_path} got them, as eval/law/… at step 4; mlflow of {tmp_path} did not get them: start the same again "
        "once it can be reached"
    )
    assert cells(tmp_path) == [("4", "2.5")]
    assert f"csv, mlflow of {tmp_path} got them" in given(tmp_path, 2.5, *to)
    assert cells(tmp_path) == [("4", "2.5")]
    assert in_mlflow(tmp_path, NAME) == [(4, 2.5)]
    assert "had them already" in given(tmp_path, 2.5, *to)


class Killed:
    """Is killed when told, as by a job's end."""

    def __init__(self, *arguments, **options) -> None:
        pass

    def tell(self, step, values) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Interrupted(Killed):
    def tell(self, step, values) -> None:
        raise KeyboardInterrupt


def given_killed(run_dir: Path, *to: str) -> None:
    trackers.TensorboardTracker = Killed
    given(run_dir, 2.5, *to)


@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_an_evaluation_that_ends_before_all_are_told_is_told_the_next_time(tmp_path, monkeypatch, how):
    to = ("csv", "tensorboard", "mlflow")
    log_steps(to, tmp_path, range(1, 8))
    time.sleep(1.1)  # readers of event files order them by the second of their start
    if how == "killed":
        process = multiprocessing.get_context("fork").Process(target=given_killed, args=(tmp_path, *to))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    else:
        with monkeypatch.context() as broken:
            broken.setattr(trackers, "TensorboardTracker", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                given(tmp_path, 2.5, *to)
    assert cells(tmp_path) == [("4", "2.5")], "it is told in part"
    log_steps(("csv",), tmp_path, range(6, 8), start_step=5)
    for told in ("got them", "had them already"):
        assert f"csv, tensorboard, mlflow of {tmp_path} {told}" in given(tmp_path, 2.5, *to)
        assert cells(tmp_path) == [("4", "2.5")]
        assert points(tmp_path, NAME) == in_mlflow(tmp_path, NAME) == [(4, 2.5)]


def test_what_a_version_before_gave_was_told(tmp_path):
    log_steps(("csv",), tmp_path, range(1, 8))
    (tmp_path / "evaluations.jsonl").write_text('{"step": 4, "eval/law/loss": 2.5}\n')
    assert "had them already" in given(tmp_path, 2.5, "csv")
    assert "got them" in given(tmp_path, 3.5, "csv")


@pytest.mark.slow
def test_wandb_has_them_in_the_row_of_the_step(tmp_path):
    log_steps(("wandb",), tmp_path, range(1, 8))
    given(tmp_path, 2.5, "wandb")
    for _ in range(2):
        ((run_id, rows),) = wandb_history(tmp_path)
        assert run_id == (tmp_path / "wandb" / "run_id").read_text().strip()
        assert [(row["step"], row["_step"]) for row in rows] == [(step, step) for step in range(1, 8)]
        assert [(row["step"], row[NAME]) for row in rows if NAME in row] == [(4, 2.5)]
        assert rows[3]["loss"] == pytest.approx(2.5), "of training, as before"
        log_steps(("wandb",), tmp_path, range(6, 8), start_step=5)


def test_wandb_shows_the_run_that_it_is_told_of_as_it_ended(tmp_path):
    log_steps(("wandb",), tmp_path, range(1, 4), code=2)
    (tmp_path / "run.yaml").write_text("started_in: /home/x\noptim: {lr: 0.5}\n")
    (tmp_path / "report.html").write_text("<p>page</p>")
    given(tmp_path, 2.5, "wandb", step=3)
    assert settings_in_wandb(tmp_path) == {"optim": {"lr": 0.5}}
    assert artifacts_in_wandb(tmp_path) == [("report", ["report.html"])]
    assert ends_in_wandb(tmp_path) == [2]


@pytest.mark.parametrize(
    ("train", "ends"),
    [("{steps: 7, stop_at: 4}", 1), pytest.param("{steps: 7, stop_at: 3}", 0, marks=pytest.mark.slow)],
)
def test_wandb_does_not_take_a_run_that_was_killed_for_finished(tmp_path, train, ends):
    killed(("wandb",), tmp_path, range(1, 4))
    (tmp_path / "run.yaml").write_text(f"train: {train}\n")
    given(tmp_path, 2.5, "wandb", step=3)
    assert ends_in_wandb(tmp_path) == [ends]


def test_wandb_keeps_how_a_run_ended_until_it_goes_on(tmp_path):
    ended = tmp_path / "exit_code"
    _LastEnd(ended, new=True).keep(75)
    assert _LastEnd(ended, new=False).exit_code == 75
    _LastEnd(ended, new=False).forget()
    assert _LastEnd(ended, new=False).exit_code is None
    _LastEnd(ended, new=False).keep(2)
    assert _LastEnd(ended, new=True).exit_code is None
    assert not ended.exists(), "a new start in an old directory is another run"
    ended.write_text("two\n")
    assert _LastEnd(ended, new=False).exit_code is None


@pytest.mark.slow
def test_a_server_of_wandb_that_has_the_step_gets_them_beside_the_curves(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "run_id").write_text("0123456789abcdef\n")
    log_steps(("csv",), tmp_path, range(1, 8))
    online = settings(tmp_path, "wandb") | {"track": {"to": ["wandb"], "wandb_mode": "online"}}
    with serving(7) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        tracked_run(str(tmp_path), online, "runs/x", 4).give("law", {"loss": 2.5})
    assert server.sent == []
    assert (server.summary[NAME], server.summary["eval/law/step"]) == (2.5, 4)


def test_a_tracker_that_fails_fails_nothing(tmp_path, monkeypatch, caplog):
    log_steps(("csv",), tmp_path, range(1, 6))
    monkeypatch.setattr(trackers, "WandbTracker", Failing)
    assert "got them" in given(tmp_path, 2.5, "wandb", "csv")
    assert cells(tmp_path) == [("4", "2.5")]
    assert "got nothing" in tracked_run(str(tmp_path), settings(tmp_path, "csv"), "x", 4).give("law", {})
    assert [one.levelno for one in caplog.records if "wandb failed" in one.message] == [logging.WARNING]
    (tmp_path / "evaluations.jsonl").unlink()
    (tmp_path / "evaluations.jsonl").mkdir()
    assert "did not get them" in given(tmp_path, 3.5, "csv")


def test_of_a_run_without_trackers_and_of_no_run_it_is_told(tmp_path):
    log_steps(("csv",), tmp_path, range(1, 3))
    with pytest.raises(DataError, match="is a run without trackers: set trackers=false"):
        tracked_run(str(tmp_path), settings(tmp_path), "runs/x", 2)
    for path, known in ((tmp_path, {}), (tmp_path / "a" / "b" / "c", settings(tmp_path / "gone", "csv"))):
        with pytest.raises(DataError, match="runs/x is no checkpoint of a run whose directory is here"):
            tracked_run(str(path), known, "runs/x", 2)


def test_a_run_is_found_around_its_checkpoint_and_by_what_it_said(tmp_path):
    log_steps(("csv",), tmp_path, range(1, 3))
    for path in (tmp_path, tmp_path / "checkpoints" / "step_00000002", Path("/elsewhere/step_00000002")):
        assert tracked_run(str(path), settings(tmp_path, "csv"), "x", 2).run_dir == tmp_path
