"""The view in a terminal, and the command that opens it, as a person starts it."""

import io
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from dist_plm.cli.commands.showing import watch
from dist_plm.monitor.live.follow import FollowedRun
from dist_plm.monitor.live.terminal import view_of
from tests.monitor.live.test_serve import watching
from tests.monitor.make import record

TINY = Path(__file__).parents[1] / "report_page" / "tiny"
SCRIPT = Path(__file__).parents[3] / "launch" / "watch.py"


def shown(*paths: Path, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    console.print(view_of([FollowedRun(path) for path in paths], console))
    return console.file.getvalue()


def test_a_real_run():
    text = shown(TINY)
    assert "step 40 of 40, ETA 0s, 2.56k tokens" in text
    for title in ("loss", "held-out perplexity", "learning rate", "gradient norm", "tokens/s", "MFU"):
        assert f" {title} " in text
    assert "after step 20: restart at 2026" in text
    assert all(len(line) == 100 for line in text.splitlines())


def test_a_run_that_goes_on_further_has_the_steps_of_now(tmp_path):
    """As one that was made in pieces, with train.stop_at."""
    run, console = shutil.copytree(TINY, tmp_path / "run"), Console(file=io.StringIO(), width=100)
    followed = [FollowedRun(run)]
    console.print(view_of(followed, console))
    (run / "run.yaml").write_text("train: {steps: 60, stop_at: 50}\n")
    console.print(view_of(followed, console))
    told = console.file.getvalue()
    assert [steps in told for steps in ("step 40 of 40", "step 40 of 50", "step 40 of 60")] == [True, True, False]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_it_fits_into_any_width(width):
    assert all(len(line) <= width for line in shown(TINY, width=width).splitlines())


def test_what_a_run_says_commands_nothing(tmp_path):
    run = shutil.copytree(TINY, tmp_path / "a[red]\x1b[2Jb")
    (run / "starts.jsonl").write_text('{}\n{"node": "\\u001b]0;x\\u0007[bold]"}\n')
    text = shown(run)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]" in text
    assert "[bold]" in text


def test_a_run_without_a_step_and_one_that_is_not_finite(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.yaml").write_text(f"train: {{steps: 1{'0' * 400}}}\n")
    assert "no step logged yet" in shown(run)
    line = {**record(1).as_dict(), "loss": None, "nonfinite": {"loss": "nan"}, "heal/rollbacks": 1}
    line |= {"eval/loss": "low", "memory_gib": [1]}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    text = shown(run)
    assert "nan  !" in text
    assert "after step 1: rollback: rollback 1 of the run" in text


def test_without_a_terminal_it_is_printed_once():
    command = [sys.executable, SCRIPT, TINY, "view=terminal"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("step 40 of 40") == 1
    assert "\x1b" not in done.stdout


def test_on_a_terminal_it_goes_on_until_it_is_interrupted():
    main, side = pty.openpty()
    command = [sys.executable, SCRIPT, TINY, "view=terminal"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen(command, stdin=side, stdout=side, stderr=side, env=environment) as process:
        os.close(side)
        text, deadline = "", time.monotonic() + 120
        while "step 40 of 40" not in text and time.monotonic() < deadline:
            if select.select([main], [], [], 1)[0]:
                text += os.read(main, 65536).decode(errors="replace")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 0
    os.close(main)
    assert "step 40 of 40" in text


def test_the_server_says_where_to_look_and_ends_when_interrupted():
    command = [sys.executable, "-u", SCRIPT, TINY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=120)
    assert (process.returncode, *rest) == (0, "", "")
    port = lines[1].split("localhost:")[1].split("/")[0]
    assert f"ssh -N -L {port}:localhost:{port} " in lines[2]


def test_a_user_without_a_name_is_left_out(capsys, monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)  # as in a container; /etc/passwd does not have it
    with watching(TINY) as server:
        watch._tell(server, [TINY])
    assert f":localhost:{server.server_port} {socket.gethostname()}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing"], "missing is no directory"),
        ([str(TINY), "port=0"], "port=0 is no port"),
        ([str(TINY), "port=99999"], "port=99999 is no port"),
        ([str(TINY), "port=x"], "port=x is no port"),
        ([str(TINY), "view=web"], "view=web is none of browser, terminal"),
        ([str(TINY), "html=x"], "html is no setting here; write port=… or view=…"),
        (["view=terminal"], "name a run directory"),
        ([str(TINY.parent), "view=terminal"], "is no run's directory"),
    ],
)
def test_what_it_cannot_do_is_refused(capsys, words, said):
    assert watch.execute(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert told.err.count("\n") == 1
