"""SIGUSR1 is heard while a command that trains is still importing."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.test_torchrun import catches

REPOSITORY = Path(__file__).resolve().parents[2]
#: Says what USR1 does: before, and while a run's own signals are heard, and after.
STAGES = """
import os, signal, sys
from dist_plm.core.early_signals import hear_early
hear_early()
if "train" in sys.argv:
    from dist_plm.train.stopping import StopSignals
    with StopSignals(sys.argv[2:]) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        print(signals.received)
os.kill(os.getpid(), signal.SIGUSR1)
print("goes on")
"""


def started(*words: str, ignored: bool = True) -> subprocess.Popen[str]:
    """Starts Python as a batch script does, with USR1 ignored."""
    shell = ["bash", "-c", 'trap "" USR1; exec "$@"' if ignored else 'exec "$@"', "rank", sys.executable, *words]
    return subprocess.Popen(shell, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize(
    ("words", "ignored", "code", "told"),
    [
        ([], True, 75, ""),
        ([], False, -signal.SIGUSR1, ""),
        (["train", "SIGUSR1", "SIGTERM"], True, 0, "SIGUSR1\ngoes on\n"),
        (["train", "SIGTERM"], True, 0, "None\ngoes on\n"),
    ],
)
def test_it_is_heard_until_a_run_hears_itself(words: list[str], ignored: bool, code: int, told: str) -> None:
    process = started("-c", STAGES, *words, ignored=ignored)
    assert (process.communicate(timeout=300)[0], process.returncode) == (told, code)


@pytest.mark.parametrize(
    "words",
    [
        ["launch/pretrain.py", "experiment=quickstart"],
        ["launch/finetune.py"],
        ["-m", "dist_plm", "pretrain", "experiment=quickstart"],
        ["-m", "dist_plm.cluster.torchrun", "--standalone", "--nproc-per-node=1", "nothing.py"],
    ],
    ids=lambda words: words[-1] if words[0] != "-m" else words[1],
)
def test_a_command_hears_it_before_it_imports_torch(words: list[str]) -> None:
    process = started(*words)
    try:
        deadline = time.monotonic() + 100
        while not catches(process.pid, signal.SIGUSR1):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGUSR1)
        assert process.wait(100) == 75
    finally:
        process.kill()
        process.communicate()
