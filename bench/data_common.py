"""What the parts of bench/data.py share: lines of the table, and measurements in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def line(name: str, result: str, goal: str = "", reached: bool | None = None) -> None:
    verdict = "" if reached is None else f"  goal {goal}: {'reached' if reached else 'NOT reached'}"
    print(f"  {name:<58}{result:>24}{verdict}", flush=True)


def child_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}


def child(name: str, folder: Path):
    """What one of data.py's CHILDREN returns in a process of its own."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "bench" / "data.py"), "--child", name, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=child_environment(), check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed")
    return json.loads(done.stdout.splitlines()[-1])
