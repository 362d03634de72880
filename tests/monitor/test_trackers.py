"""Trackers are proven by reading back the files that wandb and TensorBoard write."""

import contextlib
import json
import logging
import multiprocessing
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from dist_plm.monitor import trackers, wandb_tracker
from dist_plm.monitor.metrics_file import MetricsWriter
from dist_plm.monitor.trackers import build_trackers
from dist_plm.spec.schema_run import TrackConfig
from tests.monitor.make import record
from tests.monitor.wandb_server import serving

SETTINGS = {"optim": {"lr": 3e-4}, "run": {"name": "small"}}


def log_steps(
    to, run_dir: Path, steps: range, *, start_step: int = 0, die: bool = False, mode="offline", code=0
) -> None:
    """Logs as a run does, which is killed in the end where `die`, else ends with `code`; metrics.jsonl is there where its
    directory is."""
    metrics = MetricsWriter(run_dir / "metrics.jsonl", resume_step=start_step) if to else None
    config = TrackConfig(to=to, wandb_mode=mode)
    tracker = build_trackers(config, run_dir, run_name="small", settings=SETTINGS, start_step=start_step)
    for step in steps:
        evaluation = {"loss": 4.0, "perplexity": 54.6} if step % 5 == 0 else {}
        if metrics is not None:
            metrics.write(record(step, evaluation=evaluation))
        tracker.log(step, record(step, evaluation=evaluation).as_dict())
    if die:
        time.sleep(1.0)  # another process of wandb writes
        os.kill(os.getpid(), signal.SIGKILL)
    tracker.close(code)


def killed(*arguments, **options) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=log_steps, args=arguments, kwargs={**options, "die": True}
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def wandb_records(path: Path) -> list[wandb_internal_pb2.Record]:
    """The records of a .wandb file: a 7-byte header, then LevelDB's log format.

    https://github.com/google/leveldb/blob/main/doc/log_format.md: 32 KiB blocks of fragments, each a checksum
    (4 bytes), a length (2, little-endian) and a type (1: whole, 2: first, 3: middle, 4: last of a record).
    """
    data, position, payload, records = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        payload += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            records.append(wandb_internal_pb2.Record.FromString(payload))
            payload = b""
    return records


def wandb_history(run_dir: Path) -> list[tuple[str, list[dict]]]:
    """For each wandb file in the order written: the run's id and its logged rows."""
    history = []
    for path in sorted(run_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        records = wandb_records(path)
        (run_id,) = {entry.run.run_id for entry in records if entry.WhichOneof("record_type") == "run"}
        rows = [
            {item.key or item.nested_key[0]: json.loads(item.value_json) for item in entry.history.item}
            for entry in records
            if entry.WhichOneof("record_type") == "history"
        ]
        history.append((run_id, rows))
    return history


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB__SERVICE_WAIT", "300")  # seconds for its service to start, 30 unless told


def test_a_run_that_was_killed_is_one_run_in_wandb_with_each_step_once(tmp_path, caplog):
    killed(("wandb",), tmp_path, range(1, 7))
    caplog.set_level(logging.INFO)
    log_steps(("wandb",), tmp_path, range(5, 8), start_step=4)
    ((run_id, rows),) = wandb_history(tmp_path)
    assert run_id == (tmp_path / "wandb" / "run_id").read_text().strip()
    assert [(row["step"], row["_step"]) for row in rows] == [(step, step) for step in range(1, 8)]
    assert rows[4]["loss"] == pytest.approx(2.0)
    assert rows[4]["eval/perplexity"] == pytest.approx(54.6)
    assert "loss_scale" not in rows[4]  # None where it does not apply
    (directory,) = tmp_path.glob("wandb/offline-run-*")
    assert f"wandb sync {directory}" in caplog.text
    (earlier,) = (tmp_path / "wandb" / "earlier").iterdir()
    assert earlier.name.endswith(run_id)


@pytest.mark.parametrize("damage", ["", "../..", "\xff"])
def test_an_id_that_cannot_be_one_is_made_anew(tmp_path, damage):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "run_id").write_bytes(damage.encode("latin-1"))
    log_steps(("wandb",), tmp_path, range(5, 6), start_step=4)
    ((run_id, rows),) = wandb_history(tmp_path)
    assert re.fullmatch("[0-9a-f]{16}", run_id)
    assert [row["step"] for row in rows] == [5]


@pytest.mark.parametrize(("known", "sent"), [(6, [7, 8]), (2, [3, 4, 5, 6, 7, 8]), (4, [5, 6, 7, 8])])
def test_a_server_gets_what_it_lacks_and_no_step_twice(tmp_path, monkeypatch, known, sent):
    """Of a run that was killed after step 6 and goes on from step 4; what the server got before depends."""
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "run_id").write_text("0123456789abcdef\n")
    with MetricsWriter(tmp_path / "metrics.jsonl") as metrics:
        for step in range(1, 7):
            metrics.write(record(step))
    with serving(known) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        log_steps(("wandb",), tmp_path, range(5, 9), start_step=4, mode="online")
        assert server.sent == sent


def test_a_server_that_does_not_answer_costs_no_curves(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(wandb_tracker, "INIT_SECONDS", 5.0)
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        MetricsWriter(tmp_path / "metrics.jsonl").write(record(1))
        log_steps(("wandb",), tmp_path, range(2, 4), start_step=1, mode="online")
    assert "wandb is not reachable and writes offline" in caplog.text
    ((_, rows),) = wandb_history(tmp_path)
    assert [row["_step"] for row in rows] == [1, 2, 3]


@pytest.mark.parametrize("status", [401, 500])
def test_a_server_that_refuses_costs_no_curves(tmp_path, monkeypatch, caplog, status):
    """It knows no such key, or is broken."""
    monkeypatch.setattr(wandb_tracker, "INIT_SECONDS", 5.0)
    monkeypatch.setenv("WANDB_API_KEY", 40 * "a")
    with serving(0, status) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        log_steps(("wandb",), tmp_path, range(1, 3), mode="online")
    assert caplog.text.count("wandb is not reachable and writes offline") == 1
    ((_, rows),) = wandb_history(tmp_path)
    assert [row["_step"] for row in rows] == [1, 2]


def test_a_new_start_in_an_old_directory_begins_new_curves(tmp_path):
    for last in (6, 3):
        log_steps(("wandb", "tensorboard"), tmp_path, range(1, last + 1))
    (first_id, _), (second_id, rows) = wandb_history(tmp_path)
    assert first_id != second_id, "what was there is another run"
    assert [row["step"] for row in rows] == [1, 2, 3]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]


def settings_in_wandb(run_dir: Path) -> dict[str, object]:
    """What the one wandb file of a run shows as its settings."""
    (path,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    (run,) = (entry.run for entry in wandb_records(path) if entry.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name) == ("dist_plm", "small")
    return {item.key: json.loads(item.value_json) for item in run.config.update if item.key != "_wandb"}


def test_wandb_keeps_the_settings(tmp_path):
    log_steps(("wandb",), tmp_path, range(1, 2))
    assert settings_in_wandb(tmp_path)["optim"] == {"lr": 3e-4}


def test_wandb_online_without_a_login_writes_offline_and_asks_nobody(tmp_path):
    """On a terminal, where wandb would ask: nobody answers here, so a question would end in the time limit."""
    program = (
        "import pathlib, sys\n"
        "from dist_plm.spec.schema_run import TrackConfig\n"
        "from dist_plm.monitor.trackers import build_trackers\n"
        "config = TrackConfig(to=('wandb',), wandb_mode='online')\n"
        "tracker = build_trackers(config, pathlib.Path(sys.argv[1]), run_name='small', settings={})\n"
        "tracker.log(1, {'loss': 2.0})\n"
        "tracker.close()\n"
    )
    main, side = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=side,
        stdout=side,
        stderr=side,
        env=environment,
        timeout=300,
    ).check_returncode()
    os.close(side)
    shown, deadline = "", time.monotonic() + 120
    while "writes offline" not in shown and time.monotonic() < deadline:  # the kernel hands it over bit by bit
        if select.select([main], [], [], 1)[0]:
            with contextlib.suppress(OSError):  # all who could write have ended
                shown += os.read(main, 65536).decode()
    os.close(main)
    ((_, rows),) = wandb_history(tmp_path)
    assert (rows[0]["step"], rows[0]["loss"]) == (1, 2.0)
    assert "wandb is not reachable and writes offline" in shown
    assert "Enter your choice" not in shown


def test_tensorboard_writes_every_value(tmp_path):
    log_steps(("tensorboard",), tmp_path, range(1, 7))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    loss = events.Scalars("loss")
    assert [event.step for event in loss] == [1, 2, 3, 4, 5, 6]
    assert [event.value for event in loss] == pytest.approx([10 / step for step in range(1, 7)])
    assert [event.step for event in events.Scalars("eval/perplexity")] == [5]
    assert set(events.Tags()["scalars"]) == {*record(1).as_dict(), "eval/loss", "eval/perplexity"} - {
        "step",
        "loss_scale",
    }
    settings = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"lr": 0.0003' in settings


def test_tensorboard_hides_what_a_killed_run_wrote_past_its_checkpoint(tmp_path):
    log_steps(("tensorboard",), tmp_path, range(1, 7))
    time.sleep(1.1)  # readers order files by the second of their start, then by a number as text
    log_steps(("tensorboard",), tmp_path, range(5, 9), start_step=4)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("loader", ["true", "false"])
def test_tensorboard_itself_shows_no_step_twice(tmp_path, loader):
    """Its two readers, one of them not Python's, each find out by themselves what is hidden."""
    log_steps(("tensorboard",), tmp_path, range(1, 7))
    time.sleep(1.1)  # readers order files by the second of their start, then by a number as text
    log_steps(("tensorboard",), tmp_path, range(5, 9), start_step=4)
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(tmp_path),
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    with subprocess.Popen([*command, "--load_fast", loader], stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        address = next(found[1] for line in server.stderr if (found := re.search(r"at (http://\S+/)", line)))
        deadline, shown = time.monotonic() + 120, []
        while len(shown) < 8 and time.monotonic() < deadline:  # it reads in the background
            with contextlib.suppress(urllib.error.HTTPError):
                asked = f"{address}data/plugin/scalars/scalars?run=tensorboard&tag=loss"
                shown = [step for _, step, _ in json.load(urllib.request.urlopen(asked))]
            time.sleep(0.1)
        server.terminate()
        server.stderr.read()
    assert shown == list(range(1, 9))


def artifacts_in_wandb(run_dir: Path) -> list[tuple[str, list[str]]]:
    """Kind and files of what the one wandb file of a run gives beside its curves."""
    (path,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    requests = [entry.request for entry in wandb_records(path) if entry.WhichOneof("record_type") == "request"]
    kept = [entry.artifact for entry in wandb_records(path) if entry.WhichOneof("record_type") == "artifact"]
    kept += [request.log_artifact.artifact for request in requests if request.HasField("log_artifact")]
    return [(one.type, [entry.path for entry in one.manifest.contents]) for one in kept]


def test_the_report_of_a_finished_run_is_an_artifact(tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("<p>page</p>")
    config = TrackConfig(to=("wandb", "tensorboard"))
    tracker = build_trackers(config, tmp_path, run_name="small", settings=SETTINGS)
    tracker.log(1, record(1).as_dict())
    tracker.keep(page, "steps 1")
    tracker.close()
    assert artifacts_in_wandb(tmp_path) == [("report", ["report.html"])]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert b"steps 1" in events.Tensors("report/text_summary")[0].tensor_proto.string_val[0]


def test_trackers_go_back_with_a_run(tmp_path):
    config = TrackConfig(to=("wandb", "tensorboard"))
    tracker = build_trackers(config, tmp_path, run_name="small", settings=SETTINGS)
    for step in range(1, 7):
        tracker.log(step, {"step": step, "loss": float(step)})
    tracker.rewind(3)
    for step in range(4, 9):
        healed = {"heal/noticed": 6} if step == 4 else {}
        tracker.log(step, {"step": step, "loss": 10.0 * step, **healed})
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        *((step, step) for step in range(1, 4)),
        *((step, 10.0 * step) for step in range(4, 9)),
    ]
    assert [(event.step, event.value) for event in events.Scalars("heal/noticed")] == [(4, 6)]
    ((_, rows),) = wandb_history(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 9)), "wandb takes no step twice"
    assert [row["heal/noticed"] for row in rows if "heal/noticed" in row] == [6]
    assert rows[6]["heal/noticed"] == 6, "it is told with the first step that is new"


def test_both_at_once_and_none(tmp_path):
    log_steps(("wandb", "tensorboard"), tmp_path / "both", range(1, 3))
    assert len(wandb_history(tmp_path / "both")) == 1
    assert EventAccumulator(str(tmp_path / "both" / "tensorboard")).Reload().Scalars("loss")
    log_steps((), tmp_path / "none", range(1, 3))
    assert not (tmp_path / "none").exists()


class Failing:
    """Fails from the second logged step on."""

    def __init__(self, *arguments, **options) -> None:
        self.calls = 0

    def log(self, step, values) -> None:
        self.calls += 1
        if self.calls > 1:
            raise ConnectionError("server gone")

    def close(self, exit_code=None) -> None:
        raise ConnectionError("server gone")


def ends_in_wandb(run_dir: Path) -> list[str | int]:
    """What the one wandb file of a run says of its end."""
    (path,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    said: list[str | int] = []
    for entry in wandb_records(path):
        if entry.request.WhichOneof("request_type") is None and entry.WhichOneof("record_type") == "preempting":
            said.append("preempting")
        elif entry.WhichOneof("record_type") == "exit":
            said.append(entry.exit.exit_code)
    return said


@pytest.mark.parametrize(("code", "said"), [(75, ["preempting", 75]), pytest.param(2, [2], marks=pytest.mark.slow)])
def test_wandb_is_told_how_a_run_ended(tmp_path, code, said):
    log_steps(("wandb",), tmp_path, range(1, 3), code=code)
    assert ends_in_wandb(tmp_path) == said


def test_a_failing_tracker_warns_once_and_the_other_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(trackers, "WandbTracker", Failing)
    log_steps(("wandb", "tensorboard"), tmp_path, range(1, 7))
    assert [entry.levelno for entry in caplog.records if "server gone" in entry.message] == [logging.WARNING]
    assert len(EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")) == 6


def test_a_tracker_that_cannot_start_warns_and_is_left_out(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    log_steps(("wandb",), tmp_path, range(1, 7))
    assert len([entry for entry in caplog.records if "wandb failed" in entry.message]) == 1


def test_a_library_is_imported_only_if_chosen():
    libraries = "wandb", "tensorboard", "mlflow"
    program = f"import sys, dist_plm.monitor.trackers; sys.exit(bool(set({libraries}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
