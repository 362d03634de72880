"""The report at a run's end: for its trackers, and never a reason for the run to fail."""

import json
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_plm.monitor.trackers import build_trackers
from dist_plm.spec.schema_run import TrackConfig
from dist_plm.train.reporting import keep_report, note_resume
from dist_plm.train.startup.lease import RunLease

TINY = Path(__file__).parents[1] / "monitor" / "report_page" / "tiny"


@pytest.fixture
def run(tmp_path) -> Path:
    return shutil.copytree(TINY, tmp_path / "run")


def told(run: Path) -> list[bytes]:
    """What TensorBoard was given as the report."""
    tracker = build_trackers(TrackConfig(to=("tensorboard",)), run, run_name="x", settings={}, start_step=40)
    keep_report(run, tracker)
    tracker.close()
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
    assert "the run is finished; " in caplog.text
    assert (run / damage).read_text() == "mine: ["


def test_the_step_of_each_start_is_noted(tmp_path):
    for number, step in ((1, 0), (2, 20)):
        note_resume(
            RunLease(tmp_path / "starts.jsonl", number, json.dumps({"id": f"i{number}"}).encode() + b"\n"), step
        )
    lines = (tmp_path / "resumes.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"id": "i1", "step": 0}, {"id": "i2", "step": 20}]
