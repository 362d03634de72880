"""The report at a run's end: for its trackers, and never a reason for the run to fail."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_plm.core.errors import DataError
from dist_plm.monitor.trackers import build_trackers
from dist_plm.spec.schema_run import TrackConfig
from dist_plm.train.reporting import closing_records, keep_report, note_resume
from dist_plm.train.startup.lease import RunLease, SupersededError

TINY = Path(__file__).parents[1] / "monitor" / "report_page" / "tiny"


@pytest.fixture
def run(tmp_path) -> Path:
    return shutil.copytree(TINY, tmp_path / "run")


def told(run: Path) -> list[bytes]:
    """What TensorBoard was given as the report."""
    tracker = build_trackers(TrackConfig(to=("tensorboard",)), run, run_name="x", settings={}, start_step=40)
    keep_report(run, tracker)
    tracker.close(0)
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    found = events.Tensors("report/text_summary") if "report/text_summary" in events.Tags()["tensors"] else []
    return [one.tensor_proto.string_val[0] for one in found]


def test_trackers_get_the_page_of_a_finished_run(run):
    (text,) = told(run)
    assert b"held-out perplexity" in text
    assert "tiny" in (run / "report.html").read_text()


@pytest.mark.parametrize("damage", ["report.html", "metrics.jsonl", "run.yaml"])
def test_no_run_fails_for_a_report(run, caplog, damage):
    (run / damage).write_text("mine: [")
    assert told(run) == []
    assert "the run has ended; " in caplog.text
    assert (run / damage).read_text() == "mine: ["


def test_a_run_that_has_logged_no_step_has_no_page(run, caplog):
    (run / "metrics.jsonl").write_text("")
    assert told(run) == []
    assert caplog.text == ""
    assert not (run / "report.html").exists()


class Ended:
    """Takes note of how it was closed; what else there is of records fails."""

    def __init__(self) -> None:
        self.codes: list[int | None] = []

    def keep(self, page, text) -> None:
        self.codes.append(None)

    def close(self, exit_code: int) -> None:
        self.codes.append(exit_code)


class Broken:
    def close(self) -> None:
        raise OSError("no room")


@pytest.mark.parametrize(
    ("error", "codes"),
    [
        (DataError("bad store"), [None, 2]),
        (RuntimeError("peer is gone"), [None, 1]),
        (KeyboardInterrupt(), [130]),
        (SupersededError("taken over"), []),
    ],
)
def test_what_a_run_fails_for_is_told_whatever_fails_of_its_records(run, error, codes, caplog):
    tracker, watchdog = Ended(), SimpleNamespace(progress=lambda *_, **__: None)
    metrics_logger: Any = SimpleNamespace(progress=Broken(), metrics=Broken(), tracker=tracker)
    world: Any = None  # no rank waits for the others
    with (
        pytest.raises(type(error)) as told,
        closing_records(metrics_logger, watchdog, run, TrackConfig(to=("mlflow",)), world),  # type: ignore[arg-type]
    ):
        raise error
    assert told.value is error
    assert tracker.codes == codes
    assert caplog.text.count("cannot be closed: ") == (2 if codes else 0)


def test_the_step_of_each_start_is_noted(tmp_path):
    for number, step in ((1, 0), (2, 20)):
        note_resume(
            RunLease(tmp_path / "starts.jsonl", number, json.dumps({"id": f"i{number}"}).encode() + b"\n"), step
        )
    lines = (tmp_path / "resumes.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"id": "i1", "step": 0}, {"id": "i2", "step": 20}]
