"""metrics.jsonl: its keys, valid JSON whatever the numbers, each step once after kills at any byte."""

import contextlib
import errno
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.core.errors import UserError
from dist_plm.monitor.metrics_file import MetricsWriter, read_metrics
from tests.monitor.make import record

KEYS = [
    "step",
    "loss",
    "lr",
    "grad_norm",
    "tokens_seen",
    "samples_seen",
    "tokens_per_second",
    "step_seconds",
    "mfu",
    "loss_scale",
    "skipped",
    "skipped_share",
]


def steps_in(path) -> list[int]:
    return [line["step"] for line in read_metrics(path)]


def test_a_line_has_the_documented_keys(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(record(1))
        writer.write(record(2, terms={"mlm": 3.0}, evaluation={"loss": 4.0, "initial/perplexity": 9.0}))
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert list(first) == KEYS
    assert list(second) == [*KEYS, "loss/mlm", "eval/loss", "eval/initial/perplexity"]
    assert first["loss_scale"] is None
    assert read_metrics(path) == [first, second]


numbers = st.floats() | st.integers(-(2**70), 2**70)


@settings(deadline=None)
@given(loss=st.floats(), norm=st.none() | st.floats(), evaluation=st.dictionaries(st.text(max_size=8), st.floats()))
def test_any_number_is_valid_json_and_comes_back(tmp_path_factory, loss, norm, evaluation):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    written = record(3, loss=loss, grad_norm=norm, evaluation=evaluation)
    with MetricsWriter(path) as writer:
        writer.write(written)
    (line,) = path.read_bytes().splitlines()
    json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    (back,) = read_metrics(path)
    assert back.keys() == written.as_dict().keys()
    for name, value in written.as_dict().items():
        assert back[name] == value or (math.isnan(back[name]) and math.isnan(value))


def test_a_number_that_is_not_finite_is_null_with_its_name(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(record(1, loss=math.nan, grad_norm=-math.inf))
    line = json.loads(path.read_text())
    assert line["loss"] is None
    assert line["nonfinite"] == {"loss": "nan", "grad_norm": "-inf"}


def test_resuming_drops_later_steps_and_appends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        for step in range(1, 8):
            writer.write(record(step))
    with MetricsWriter(path, resume_step=4) as writer:
        writer.write(record(5, loss=-1.0))
    assert steps_in(path) == [1, 2, 3, 4, 5]
    assert read_metrics(path)[-1]["loss"] == -1.0


def test_going_back_drops_later_steps_and_appends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        for step in range(1, 7):
            writer.write(record(step))
        writer.rewind(4)
        assert steps_in(path) == [1, 2, 3, 4]
        writer.write(replace(record(5), heal={"rollbacks": 1}, worst={"loss": 3.0, "first_sample": 8}))
    assert steps_in(path) == [1, 2, 3, 4, 5]
    last = read_metrics(path)[-1]
    assert (last["heal/rollbacks"], last["worst/loss"], last["worst/first_sample"]) == (1, 3.0, 8)


def test_going_back_keeps_what_a_full_disk_did_not_take(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(record(1))
        with monkeypatch.context() as full:
            full.setattr(MetricsWriter, "_append", no_room)
            full.setattr("dist_plm.monitor.metrics_file.atomic_writer", no_room)
            for step in range(2, 7):
                writer.write(record(step))
            writer.rewind(4)
        assert steps_in(path) == [1]
        writer.write(record(5))
    assert steps_in(path) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("stays", [False, True])
def test_going_back_is_put_off_where_the_disk_fails(tmp_path, monkeypatch, caplog, stays):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        for step in range(1, 8):
            writer.write(record(step))
        monkeypatch.setattr("dist_plm.monitor.metrics_file.os.pread", no_room)
        writer.rewind(4)
        writer.write(record(5, loss=-1.0))
        writer.write(record(6, loss=-1.0))
        writer.rewind(5)
        assert "records are kept in memory and written later" in caplog.text
        if not stays:
            monkeypatch.undo()
            writer.write(record(6, loss=-2.0))
            assert [one["loss"] for one in read_metrics(path)[4:]] == [-1.0, -2.0]
    assert steps_in(path) == (list(range(1, 8)) if stays else list(range(1, 7)))
    assert ("lacks its last 1 records" in caplog.text) == stays


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_starting_anew_empties_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(record(1))
    MetricsWriter(path).close()
    assert path.read_bytes() == b""


def test_what_an_earlier_writer_still_writes_is_not_in_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    earlier = MetricsWriter(path)
    earlier.write(record(1))
    with MetricsWriter(path, resume_step=1) as writer:
        earlier.write(record(2))
        writer.write(record(2))
    earlier.close()
    assert steps_in(path) == [1, 2]


@settings(deadline=None)
@given(st.data())
def test_a_file_torn_at_any_byte_reads_and_resumes(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        for step in range(1, 4):
            writer.write(record(step))
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    complete = whole[:cut].count(b"\n")
    assert steps_in(path) == list(range(1, complete + 1))
    with MetricsWriter(path, resume_step=complete) as writer:
        writer.write(record(complete + 1))
    assert steps_in(path) == list(range(1, complete + 2))


def test_foreign_lines_are_left_out_with_a_warning(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n[1]\n{"loss": 2}\n{"step": "x"}\n\n{"step": 2}\n')
    assert steps_in(path) == [1, 2]
    assert [f"line {number}" in caplog.text for number in range(1, 8)] == [False, *[True] * 5, False]


def test_an_interrupted_rewrite_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(record(1))
        writer.write(record(2))
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        MetricsWriter(path, resume_step=1)
    assert path.read_bytes() == before


def test_killed_while_writing_each_step_is_there_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    program = (
        "import sys, pathlib, itertools\n"
        "from tests.monitor.make import record\n"
        "from dist_plm.monitor.metrics_file import MetricsWriter\n"
        "start = int(sys.argv[2])\n"
        "writer = MetricsWriter(pathlib.Path(sys.argv[1]), resume_step=start)\n"
        "for step in itertools.count(start + 1):\n"
        "    writer.write(record(step))\n"
    )
    resumed = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", program, str(path), str(resumed)])
        deadline, target = time.monotonic() + 300, 50_000 + (path.stat().st_size if path.exists() else 0)
        while not path.exists() or path.stat().st_size < target:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.wait()
        steps = steps_in(path)
        assert steps == list(range(1, len(steps) + 1))
        resumed = len(steps) - 20


def test_a_write_costs_microseconds(tmp_path):
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        one = record(1)
        start = time.process_time()
        for _ in range(2000):
            writer.write(one)
        # A hundred times what it takes where nothing else runs.
        assert (time.process_time() - start) / 2000 < 600e-6


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own that holds little."""
    where = tmp_path / "disk"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", where]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a file system")
    yield where
    subprocess.run(["umount", "--lazy", where], check=True)


def test_a_full_disk_puts_records_off(small_disk, caplog):
    path = small_disk / "metrics.jsonl"
    ballast = small_disk / "ballast"
    with MetricsWriter(path) as writer:
        writer.write(record(1))
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        for step in range(2, 60):
            writer.write(record(step))
        assert path.read_bytes().endswith(b"\n"), "no line is torn"
        ballast.unlink()
        writer.write(record(60))
    assert steps_in(path) == list(range(1, 61))
    assert caplog.text.count("No space left on device") == 1
    assert "is written again" in caplog.text


def test_what_the_disk_never_takes_is_told(small_disk, caplog):
    writer = MetricsWriter(small_disk / "metrics.jsonl")
    with (small_disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    writer.write(record(1))
    writer.write(record(2))
    writer.close()
    assert "lacks its last 2 records" in caplog.text


def test_a_guard_that_cannot_tell_puts_records_off(tmp_path):
    path, away = tmp_path / "metrics.jsonl", [True]

    def guard():
        if away[0]:
            raise FileNotFoundError(2, "No such file or directory")

    with MetricsWriter(path, guard=guard) as writer:
        writer.write(record(1))
        assert path.read_bytes() == b""
        away[0] = False
        writer.write(record(2))
    assert steps_in(path) == [1, 2]


def test_a_file_that_was_removed_is_made_anew(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(record(1))
        path.unlink()
        writer.write(record(2))
    assert steps_in(path) == [1, 2]
    assert "was removed" in caplog.text


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "directory"])
def test_nothing_but_a_file_of_its_own_is_added_to(tmp_path, kind):
    path, elsewhere = tmp_path / "metrics.jsonl", tmp_path / "elsewhere"
    if kind == "link":
        elsewhere.write_text('{"step": 1}\n')
        path.symlink_to(elsewhere)
        MetricsWriter(path).close()
        assert elsewhere.read_text() == '{"step": 1}\n'
        return
    if kind == "dangling link":
        path.symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises((OSError, UserError), match=r"link|pipe|[Dd]irectory"):
        MetricsWriter(path)
    assert not elsewhere.exists()


def test_temporary_files_of_others_stay(tmp_path):
    (tmp_path / "metrics.jsonl.mine.tmp").write_text("years of work")
    (tmp_path / "metrics.jsonl.0123abcd.tmp").write_text("of a writer that was killed")
    MetricsWriter(tmp_path / "metrics.jsonl").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "metrics.jsonl.mine.tmp"]
