"""A rank that ends as it is told, another way at each start of its job: `end_with.py RUN_DIR 75 save wait 0`.

N: exit code N. save: moves on RUN_DIR/checkpoints/latest, before it ends with 1; saved: with 75. wait: for USR1, then ends
with 75, as soon as all ranks have it: a run's ranks agree on it too, and the first to end under torchrun would end the others.
slow: with 75, having named its node slow. 75,1: rank 0 ends with 75, rank 1 with 1.
"""

import os
import signal
import sys
import time
from pathlib import Path

run_dir = Path(sys.argv[1])
ways = sys.argv[2:]
start = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
way = ways[min(start, len(ways) - 1)]
latest = run_dir / "checkpoints" / "latest"
rank = os.environ.get("RANK") or os.environ["SLURM_PROCID"]
if "," in way:
    way = way.split(",")[int(rank)]
n_ranks = int(os.environ.get("WORLD_SIZE") or os.environ["SLURM_NTASKS"])


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())  # in one piece, unlike print under torchrun


def stop(*_: object) -> None:
    # Python gives up its handlers as it ends; a second signal would then kill.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    say(f"signalled in start {start + 1}")
    signalled = run_dir / "signalled"
    signalled.mkdir(exist_ok=True)
    (signalled / rank).touch()
    deadline = time.monotonic() + 600
    while len(list(signalled.iterdir())) < n_ranks:
        if time.monotonic() > deadline:
            sys.exit("not every rank was signalled")
        time.sleep(0.05)
    sys.exit(75)


if way == "wait":
    signal.signal(signal.SIGUSR1, stop)
    say("waiting for a signal")
    while True:
        time.sleep(0.1)
if way == "slow":
    (run_dir / "slurm").mkdir(exist_ok=True)
    (run_dir / "slurm" / "slow_nodes").write_text(f"{os.environ['SLURMD_NODENAME']}\n")
    sys.exit(75)
if way in ("save", "saved"):
    latest.parent.mkdir(exist_ok=True)
    latest.write_text(f"step_{start + 1:08d}\n")
    sys.exit(1 if way == "save" else 75)
sys.exit(int(way))
