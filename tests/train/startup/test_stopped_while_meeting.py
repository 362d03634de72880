"""A rank that waits for others at the meeting place hears signals there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.ranks.ports import free_port

ENDS = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}


def first_of_two(run: Path) -> subprocess.Popen:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    places = {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, **meeting}
    return subprocess.Popen(
        [sys.executable, "-m", "dist_plm", "pretrain", f"run.dir={run}"],
        env=os.environ | {name: str(value) for name, value in places.items()},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_ends_at_once(tmp_path) -> None:
    alone = {number: first_of_two(tmp_path / "run") for number in ENDS}
    try:
        for number, process in alone.items():
            # PyTorch for CUDA speaks first where there is no GPU.
            said = (line for line in process.stderr if "No CUDA runtime is found" not in line)
            assert "waits at 127.0.0.1:" in next(said)
            process.send_signal(number)
            assert process.wait(60) == ENDS[number], number  # it would wait for ten minutes
    finally:
        for process in alone.values():
            process.kill()
            process.communicate()
    assert not (tmp_path / "run").exists()
