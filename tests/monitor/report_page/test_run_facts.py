"""What a page says of a run beside its curves, from files that a run wrote and from files that nobody did."""

import io
import json
import shutil
from pathlib import Path

import pytest

from dist_plm.monitor.report import load_run
from dist_plm.monitor.report_page import run_tables
from dist_plm.monitor.report_page.run_facts import events_of, facts_of, samples_of, settings_of, starts_of
from dist_plm.monitor.report_page.run_tables import last_line, tables_of
from tests.monitor.make import record

TINY = Path(__file__).parent / "tiny"


def test_starts_and_the_steps_after_which_they_went_on():
    first, second = starts_of(TINY)
    assert (first["number"], first["step"], first["ranks"]) == (1, 0, "1")
    assert (second["number"], second["step"]) == (2, 20)


def test_of_a_run_of_before_it_is_not_known_where_it_went_on(tmp_path):
    run = shutil.copytree(TINY, tmp_path / "run")
    (run / "resumes.jsonl").unlink()
    assert [start["step"] for start in starts_of(run)] == [0, None]


def test_settings_have_their_origins():
    origins = {name: (value, origin) for name, value, origin in settings_of(load_run(TINY))}
    assert origins["train.steps"] == ("40", "command line  (over conf/train/default.yaml: 1000)")
    assert origins["model.vocab_size"] == ("300", "derived")


def test_rollbacks_and_alarms_are_events():
    records = [record(1).as_dict(), {**record(2).as_dict(), "heal/rollbacks": 1, "heal/noticed": 5}]
    worst = {"heal/worst_loss": 148.96485, "heal/worst_first_sample": 1724, "heal/worst_last_sample": 1725, "heal/x": 2}
    told = "its worst microbatch had a loss of 149, samples 1,724 to 1,725 were in it, x 2"
    assert events_of([{**record(1).as_dict(), **worst}])[0]["text"] == told
    records.append({**record(3).as_dict(), "heal/alarms": 2})
    assert events_of(records) == [
        {"step": 2, "kind": "rollback", "text": "step 5 was bad, rollback 1 of the run"},
        {"step": 3, "kind": "alarm", "text": "bad steps that the run went on from: 2"},
    ]


def test_slow_and_faulty_ranks_are_events():
    records = [{**record(2).as_dict(), "slow/rank": 3, "slow/ratio": 1.3, "replicas/differing": 1}]
    assert [(event["kind"], event["text"]) for event in events_of(records)] == [
        ("alarm", "rank 3 takes 1.3 times as long as its peers"),
        ("alarm", "replicas differ between ranks: see the log"),
    ]


def test_parts_of_a_step_by_rank(tmp_path):
    assert tables_of(tmp_path) == []
    line = {"step": 4, "nodes": ["a", "b"], "seconds": {"forward": [0.001, 0.002], "communication": [0.009, 0.0]}}
    (tmp_path / "step_parts.jsonl").write_text(f'{{"step": 2}}\n{json.dumps(line)}\n{{"torn')
    (table,) = tables_of(tmp_path)
    assert "before step 4" in table["title"]
    assert table["rows"] == [
        ["rank", "node", "forward", "communication"],
        ["rank 1", "b", "2.00", "0.00"],
        ["rank 0", "a", "1.00", "9.00"],
    ]


@pytest.mark.parametrize("length", [20, 2**16 - 1, 2**16, 2**16 + 1, 300_000])
@pytest.mark.parametrize("before", [b"", b'{"step": 2}\n'])
@pytest.mark.parametrize("torn", [b"", b'{"torn'])
def test_the_last_whole_line_may_be_long(tmp_path, length, before, torn):
    line = {"name": ""}
    line["name"] = "n" * (length - len(json.dumps(line)))
    path = tmp_path / "lines.jsonl"
    path.write_bytes(before + json.dumps(line).encode() + b"\n" + torn)
    assert last_line(path) == line


def test_of_a_long_file_the_end_alone_is_read(tmp_path, monkeypatch):
    """Of a long run on many ranks it grows by tens of kilobytes each hundred steps, and a page asks again and again."""
    read = []

    class Counted(io.BytesIO):
        def read(self, *arguments):
            found = super().read(*arguments)
            read.append(len(found))
            return found

    path = tmp_path / "step_parts.jsonl"
    path.write_bytes(b"".join(b'{"step": %d, "seconds": "%s"}\n' % (step, b"1" * 50_000) for step in range(200)))
    monkeypatch.setattr(run_tables, "open_regular", lambda path: Counted(path.read_bytes()))
    assert (last_line(path) or {}).get("step") == 199
    assert sum(read) <= 4 * 50_000


def test_samples_are_the_first_rows_of_predictions(tmp_path):
    folder = tmp_path / "predictions"
    folder.mkdir()
    rows = [{"text": f"row {i}", "label": 1, "said": {"a": 0.5}} for i in range(100)]
    (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "torn")
    (folder / "measures.json").write_text("{}")
    ((shown),) = samples_of(tmp_path)
    assert shown["title"] == "validation.jsonl (20 of its first rows)"
    assert len(shown["rows"]) == 20
    assert shown["rows"][1]["text"] == "row 1"
    assert samples_of(TINY) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[1, 2]\n3\nnull",
        b'{"id": [1]}',
        b'{"step": "x"}\n{"id": {}}',
        b'{"seconds": {"data": ["x"]}, "nodes": [[]]}\n',
    ],
)
@pytest.mark.parametrize("name", ["starts.jsonl", "resumes.jsonl", "origins.json", "step_parts.jsonl"])
def test_files_that_no_run_wrote_are_no_obstacle(tmp_path, name, content):
    run = shutil.copytree(TINY, tmp_path / "run")
    (run / name).write_bytes(content)
    json.dumps(facts_of(load_run(run), most_values=100), allow_nan=False)
