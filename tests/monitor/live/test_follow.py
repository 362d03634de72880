"""A run is followed as it grows, is started again from an earlier step, and is not there for a moment."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from dist_plm.core.errors import UserError
from dist_plm.monitor.live.follow import FollowedRun
from dist_plm.monitor.metrics_file import MetricsWriter
from dist_plm.monitor.report_page.packed_columns import elapsed_seconds
from tests.monitor.make import record


def steps(run: FollowedRun) -> list[int]:
    run.update()
    return [one["step"] for one in run.records]


def begun(path: Path) -> Path:
    path.mkdir()
    (path / "starts.jsonl").write_text("{}\n")
    return path


def written(path: Path, steps: Iterable[int]) -> Path:
    with MetricsWriter(path) as writer:
        for step in steps:
            writer.write(record(step))
    return path


def test_only_what_is_new_is_read(tmp_path):
    run = FollowedRun(begun(tmp_path / "run"))
    assert steps(run) == []
    with MetricsWriter(tmp_path / "run" / "metrics.jsonl") as writer:
        for step in (1, 2):
            writer.write(record(step))
        assert steps(run) == [1, 2]
        kept = run.records[0]
        writer.write(record(4))
        assert steps(run) == [1, 2, 4]
    assert run.records[0] is kept
    assert run.seconds == elapsed_seconds(run.records) == [0.25, 0.5, 1.0]
    assert run.generation == 0


def test_a_line_counts_once_it_is_whole(tmp_path):
    path = begun(tmp_path / "run") / "metrics.jsonl"
    line = json.dumps(record(1).as_dict()) + "\n"
    path.write_text(line[:30])
    run = FollowedRun(path.parent)
    assert steps(run) == []
    with path.open("a") as file:
        file.write(line[30:])
    assert steps(run) == [1]


def test_a_run_that_goes_on_from_an_earlier_step_begins_anew(tmp_path):
    path = written(begun(tmp_path / "run") / "metrics.jsonl", range(1, 7))
    run = FollowedRun(path.parent)
    assert steps(run) == [1, 2, 3, 4, 5, 6]
    with MetricsWriter(path, resume_step=4) as writer:
        writer.write(record(5, loss=9.0))
        assert steps(run) == [1, 2, 3, 4, 5]
        assert (run.generation, run.records[-1]["loss"], len(run.seconds)) == (1, 9.0, 5)


def test_another_file_is_told_by_what_it_holds(tmp_path):
    """A file system may give the file that takes the place of one that was removed the same inode: as if written over."""
    path = written(begun(tmp_path / "run") / "metrics.jsonl", range(1, 5))
    run = FollowedRun(path.parent)
    assert steps(run) == [1, 2, 3, 4]
    other = [line.replace('"loss": 2.5', '"loss": 9.5') for line in path.read_text().splitlines(keepends=True)]
    path.write_text("".join(other) + written(tmp_path / "more.jsonl", range(5, 8)).read_text())
    assert steps(run) == [1, 2, 3, 4, 5, 6, 7]
    assert (run.generation, run.records[3]["loss"]) == (1, 9.5)


def test_a_file_that_is_away_changes_nothing(tmp_path):
    path = begun(tmp_path / "run") / "metrics.jsonl"
    MetricsWriter(path).write(record(1))
    run = FollowedRun(path.parent)
    assert steps(run) == [1]
    path.rename(path.with_name("away"))
    assert steps(run) == [1]
    path.with_name("away").rename(path)
    assert (steps(run), run.generation) == ([1], 0)


@pytest.mark.parametrize("line", ["", "{}", "null", '{"step": 3}', '{"step": "x"}', "[" * 100_000, "\0"])
def test_lines_of_no_run_are_left_out(tmp_path, line):
    path = begun(tmp_path / "run") / "metrics.jsonl"
    whole = json.dumps(record(1).as_dict())
    bad = json.dumps({**record(2).as_dict(), "loss": "x"})
    path.write_text("\n".join([line, whole, bad, line, ""]))
    assert steps(FollowedRun(path.parent)) == [1]


@pytest.mark.parametrize("kind", ["missing", "file", "other directory"])
def test_what_is_no_run_is_refused(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "file":
        path.write_text("")
    elif kind == "other directory":
        path.mkdir()
    with pytest.raises(UserError, match=r"is no (directory|run's directory)"):
        FollowedRun(path)


def test_metrics_that_cannot_be_read_are_told(tmp_path):
    (begun(tmp_path / "run") / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics.jsonl cannot be read: Is a directory"):
        FollowedRun(tmp_path / "run").update()
