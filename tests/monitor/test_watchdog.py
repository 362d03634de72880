import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dist_plm.core.errors import EXIT_HUNG
from dist_plm.monitor.flight_recorder import last_collective
from dist_plm.monitor.watchdog import HangLimits, Watchdog

LIMITS = HangLimits(factor=20, least_seconds=60, patient_seconds=600)


@pytest.mark.parametrize(
    ("typical", "patient", "seconds"), [(0.1, False, 60), (10, False, 200), (0.1, True, 600), (100, True, 2000)]
)
def test_limit(typical: float, patient: bool, seconds: float) -> None:
    assert LIMITS.seconds(typical, patient=patient) == seconds


def test_typical_is_the_median_and_the_first_step_has_time(tmp_path: Path) -> None:
    watchdog = Watchdog(LIMITS, tmp_path, rank=0, world_size=1, node="here", start=1)
    watchdog.progress("in step 1")
    assert watchdog.limit_seconds == 600
    for seconds in (900, 10, 9, 11, 10):
        watchdog.note_step(seconds)
    assert watchdog.limit_seconds == 200
    watchdog.progress("saving after step 5", patient=True)
    assert watchdog.limit_seconds == 600


PROGRAM = """
import logging, sys, time
from pathlib import Path
from dist_plm.monitor.logs import setup_logging
from dist_plm.monitor.progress import say
from dist_plm.monitor.watchdog import HangLimits, Watchdog
run_dir, factor = Path(sys.argv[1]), float(sys.argv[2])
setup_logging(run_dir, rank=0, node="here", console=say)
limits = HangLimits(factor=factor, least_seconds=2, patient_seconds=2)
def get_stuck():
    time.sleep(600 if factor else 4)
with Watchdog(limits, run_dir, rank=0, world_size=1, node="here", start=1) as watchdog:
    for step in range(5):
        watchdog.progress(f"in step {step}")
        time.sleep(0.7)  # together longer than the limit, each by itself within it
    get_stuck()
print("came to its end")
"""


@pytest.mark.ranks
@pytest.mark.parametrize("factor", [1, 0])
def test_ends_a_process_without_progress_unless_off(tmp_path: Path, factor: int) -> None:
    argv = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path), str(factor)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if factor == 0:
        assert (done.returncode, done.stdout) == (0, "came to its end\n")
        return
    assert (done.returncode, done.stdout) == (EXIT_HUNG, ""), done.stderr
    assert "1 of 1 ranks wait" in done.stderr
    assert "rank 0 (here): in step 4" in done.stderr
    log = (tmp_path / "log" / "rank_00000.log").read_text()
    assert "in get_stuck" in log


def test_what_was_stopped_meanwhile_has_not_hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = HangLimits(factor=1, least_seconds=20, patient_seconds=20)
    clock, looks = [0.0], [0]

    def look() -> float:
        looks[0] += 1
        return clock[0]

    monkeypatch.setattr("dist_plm.monitor.watchdog.time.monotonic", look)

    def wait_for_looks(count: int) -> None:
        wanted, deadline = looks[0] + count, time.time() + 120
        while looks[0] < wanted:
            assert time.time() < deadline
            time.sleep(0.05)

    with Watchdog(limits, tmp_path, rank=0, world_size=1, node="here", start=1):
        wait_for_looks(1)
        clock[0] = 86400.0  # a night in which the whole process was suspended
        wait_for_looks(2)  # and we are still here


def test_last_collective_of_a_record() -> None:
    entries = [
        {"profiling_name": "nccl:all_gather", "collective_seq_id": 3, "process_group": ["0", "default_pg"]},
        {
            "profiling_name": "nccl:send",
            "p2p_seq_id": 2,
            "is_p2p": True,
            "collective_seq_id": 9,
            "process_group": ["7", "undefined"],
        },
    ]
    assert last_collective({"entries": entries[:1]}) == "nccl:all_gather number 3 of group default_pg"
    assert last_collective({"entries": entries}) == "nccl:send number 2 of group 7"
    assert last_collective({"entries": []}) is None
    assert last_collective(None) is None
