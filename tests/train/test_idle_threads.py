"""Threads of a run that begins beside other work give their core up soon, so that the two do not get in each other's way."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dist_plm.cli.busy_machine import give_up_idle_cores
from tests.train.conftest import ROOT, TINY, launch

CORES = os.cpu_count() or 1
BOUND = len(os.sched_getaffinity(0)) < CORES


@pytest.fixture
def busy_machine() -> Iterator[None]:
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(CORES)]
    yield
    for one in others:
        one.kill()
        one.wait()


@pytest.mark.skipif(BOUND, reason="bound to some cores of the machine")
def test_openmp_is_told_before_pytorch_begins(store, tmp_path, busy_machine):
    """What libgomp says of itself as it is loaded."""
    where = (f"data.path={store}", f"run.root={tmp_path}", "run.name=told", "train.steps=1")
    env = {"OMP_DISPLAY_ENV": "verbose"}
    done = launch([sys.executable, str(ROOT / "launch" / "pretrain.py"), *where, *TINY], env=env)
    assert done.returncode == 0, done.stderr
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr
    assert "GOMP_SPINCOUNT = '300000'" not in done.stderr


@pytest.mark.parametrize("given", [{"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_the_environment_says_stays(tmp_path, monkeypatch, given):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)))
    (tmp_path / "loadavg").write_text(f"9.00 9.00 9.00 {99 * CORES}/300 1234")
    environ = dict(given)
    give_up_idle_cores(environ, tmp_path / "loadavg")
    assert environ == given


@pytest.mark.parametrize(
    ("load", "spins"),
    [
        (f"0.00 0.00 0.00 {CORES + 1}/300 1234", "1000"),
        (f"9.00 9.00 9.00 1/{300 * CORES} 1234", None),  # what has ended is no matter
        ("", None),
        ("0.1 0.1 0.1 many/300 1234", None),
    ],
)
def test_what_runs_now_decides(tmp_path, monkeypatch, load, spins):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)))
    (tmp_path / "loadavg").write_text(load)
    environ = dict[str, str]()
    give_up_idle_cores(environ, tmp_path / "loadavg")
    assert environ.get("GOMP_SPINCOUNT") == spins
    give_up_idle_cores(environ, tmp_path / "absent")
    assert environ.get("GOMP_SPINCOUNT") == spins


def test_a_process_that_is_bound_to_some_cores_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: CORES + 8)
    (tmp_path / "loadavg").write_text(f"0.00 0.00 0.00 {99 * CORES}/300 1234")
    environ = dict[str, str]()
    give_up_idle_cores(environ, tmp_path / "loadavg")
    assert not environ
