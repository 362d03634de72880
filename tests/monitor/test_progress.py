"""The bar on a real pseudo-terminal, plain lines in a file, and terminals that go away."""

import io
import os
import pty
import re
import termios

import pytest

from dist_plm.monitor.progress import BarProgress, LineProgress, build_progress, say
from tests.monitor.make import record


class Terminal:
    """A pseudo-terminal of 100 columns; `shown` is what has been written to it."""

    def __init__(self) -> None:
        self.main, side = pty.openpty()
        termios.tcsetwinsize(side, (25, 100))
        self.stream = os.fdopen(side, "w")

    def shown(self) -> str:
        self.stream.flush()
        os.set_blocking(self.main, False)
        text = b""
        while True:
            try:
                text += os.read(self.main, 65536)
            except BlockingIOError:
                return text.decode()


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


def lines_on_screen(text: str) -> list[str]:
    """What is left of each line after carriage returns have overwritten it."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        screen = ""
        for part in line.split("\r"):
            screen = part + screen[len(part) :]
        lines.append(screen.rstrip())
    return lines


def test_a_bar_on_a_terminal(terminal):
    progress = build_progress(40, stream=terminal.stream)
    assert isinstance(progress, BarProgress)
    for step in range(1, 41):
        progress.update(record(step))
    progress.close()
    last = lines_on_screen(terminal.shown())[0]
    assert re.match(r"step 40/40 \|\S+\| loss 0.25 lr 1.00e-03 grad 1.5 2.05k tok/s MFU 40.0% ETA 0s$", last)
    assert len(last) <= 100


def test_messages_stand_above_the_bar(terminal):
    progress = build_progress(10, stream=terminal.stream)
    progress.update(record(5))
    progress.message("checkpoint saved")
    progress.evaluation(5, {"loss": 4.0, "perplexity": 54.6})
    say("from elsewhere", terminal.stream)
    progress.update(record(10))
    progress.close()
    screen = lines_on_screen(terminal.shown())
    assert screen[:3] == ["checkpoint saved", "step 5: held-out loss 4, perplexity 54.6", "from elsewhere"]
    assert screen[3].startswith("step 10/10 |")


def test_a_resumed_bar_begins_where_the_run_does(terminal):
    progress = build_progress(40, 30, stream=terminal.stream)
    assert "step 30/40" in terminal.shown()
    progress.update(record(31))
    progress.close()
    assert lines_on_screen(terminal.shown())[0].startswith("step 31/40")


def test_a_terminal_that_went_away_ends_nothing(terminal):
    progress = build_progress(10, stream=terminal.stream)
    os.close(terminal.main)
    for step in range(1, 11):
        progress.update(record(step))
        progress.message("anyone there?")
    progress.close()


@pytest.mark.parametrize("term", ["dumb", None])
def test_no_bar_where_none_can_be_drawn(terminal, monkeypatch, term):
    if term is not None:
        monkeypatch.setenv("TERM", term)
        assert isinstance(build_progress(10, stream=terminal.stream), LineProgress)
    assert isinstance(build_progress(10, stream=io.StringIO()), LineProgress)


def test_lines_in_a_file_are_occasional_and_plain():
    stream, now = io.StringIO(), [0.0]
    progress = LineProgress(100, stream, every_seconds=10, clock=lambda: now[0])
    for step in range(1, 101):
        now[0] += 1
        progress.update(record(step))
    progress.message("\x1b[31mred\x1b[0m and a\tbell\x07\rhere")
    progress.close()
    *steps, message = stream.getvalue().splitlines()
    assert [int(line.split("/")[0].split()[1]) for line in steps] == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100]
    assert steps[1] == "step 11/100  loss 0.9091 lr 1.00e-03 grad 1.5 2.05k tok/s MFU 40.0% ETA 22s"
    assert message == "red and a\tbellhere"


def test_values_that_do_not_apply_are_left_out():
    stream = io.StringIO()
    LineProgress(10, stream).update(record(1, grad_norm=None, mfu=None, loss=float("nan")))
    assert stream.getvalue() == "step 1/10  loss nan lr 1.00e-03 2.05k tok/s ETA 2s\n"


@pytest.mark.parametrize("stream_of", [lambda: os.fdopen(closed_pipe(), "w"), lambda: closed_file()])
def test_a_reader_that_went_away_ends_nothing(stream_of):
    stream = stream_of()
    progress = LineProgress(10, stream)
    for step in range(1, 11):
        progress.update(record(step))
    with pytest.raises((OSError, ValueError)):
        print("the stream is unusable indeed", file=stream, flush=True)


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def closed_file() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream
