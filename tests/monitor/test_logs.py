"""Rank log files: who writes where, appending, and that everything is as before once undone."""

import logging
import re
import sys
import warnings

import pytest

from dist_plm.monitor.logs import setup_logging

OURS, THEIRS = logging.getLogger("dist_plm.train.loop"), logging.getLogger("some_library.core")


def test_each_line_names_node_and_rank(tmp_path):
    undo = setup_logging(tmp_path, rank=12, node="node%d7")
    OURS.info("step %d", 3)
    undo()
    text = (tmp_path / "log" / "rank_00012.log").read_text()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO node%d7 rank 12 dist_plm\.train\.loop: step 3\n", text
    )


def test_who_reaches_the_file_and_the_console(tmp_path):
    console: list[str] = []
    undo = setup_logging(tmp_path, rank=0, node="n", console=console.append)
    OURS.debug("our debug")
    OURS.info("our info")
    OURS.warning("our warning")
    OURS.info("ours for the file", extra={"file_only": True})
    THEIRS.info("their info")
    THEIRS.warning("their warning")
    THEIRS.error("their error")
    warnings.warn("a python warning", UserWarning, stacklevel=1)
    undo()
    text = (tmp_path / "log" / "rank_00000.log").read_text()
    in_file = ["our info", "our warning", "ours for the file", "their warning", "their error", "a python warning"]
    assert [message for message in in_file if message in text] == in_file
    assert "our debug" not in text
    assert "their info" not in text
    assert console == ["our info", "warning: our warning", "error: their error"]


def test_resuming_appends(tmp_path):
    for message in ("first", "second"):
        undo = setup_logging(tmp_path, rank=0, node="n")
        OURS.info(message)
        undo()
    lines = (tmp_path / "log" / "rank_00000.log").read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["first", "second"]


def test_console_handlers_are_put_aside_and_come_back(tmp_path, capsys):
    root = logging.getLogger()
    theirs = logging.StreamHandler(sys.stderr)
    root.addHandler(theirs)
    before = (list(root.handlers), root.level, OURS.level, logging.getLogger("dist_plm").level)
    show_warning = warnings.showwarning
    undo = setup_logging(tmp_path, rank=0, node="n")
    OURS.error("not on stderr")
    undo()
    after = (list(root.handlers), root.level, OURS.level, logging.getLogger("dist_plm").level)
    assert set(after[0]) == set(before[0])
    assert after[1:] == before[1:]
    assert warnings.showwarning is show_warning
    root.removeHandler(theirs)
    assert "not on stderr" not in capsys.readouterr().err


def test_a_console_that_fails_does_not_stop_the_run(tmp_path, monkeypatch):
    def fail(text: str) -> None:
        raise RuntimeError("no console")

    monkeypatch.setattr(logging, "raiseExceptions", False)
    undo = setup_logging(tmp_path, rank=0, node="n", console=fail)
    OURS.info("kept")
    undo()
    assert "kept" in (tmp_path / "log" / "rank_00000.log").read_text()


@pytest.mark.parametrize("rank", [0, 99999])
def test_the_node_defaults_to_this_host(tmp_path, monkeypatch, rank):
    monkeypatch.setattr("socket.gethostname", lambda: "host-a")
    undo = setup_logging(tmp_path, rank=rank)
    OURS.info("x")
    undo()
    assert f"host-a rank {rank} " in (tmp_path / "log" / f"rank_{rank:05d}.log").read_text()
