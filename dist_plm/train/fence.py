"""Sees to it that of all processes which think that a run is theirs, only those started last write into it.

A node that is cut off trains on, while its job is started again elsewhere. When it reaches the file system again, or
always did, it must not write. So each start of a run adds a line to RUN_DIR/starts.jsonl, and whoever writes looks first
whether its line is still the last.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from dist_plm.config.launchenv import LaunchEnv
from dist_plm.errors import Refusal

NAME = "starts.jsonl"


class SupersededError(Refusal):
    """Another start of this run has taken over."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Of one start of a run.

    Args:
        start: its number, from 1.
        size: of the file of starts, in bytes, while it is the last.
    """

    path: Path
    start: int
    size: int

    def holds(self) -> bool:
        """Whether this start is still the last."""
        # Network file systems ask their server when a file is opened, not when it is looked at.
        with self.path.open("rb") as file:
            return os.fstat(file.fileno()).st_size == self.size

    def check(self) -> None:
        """Called before anything is written or renamed.

        Raises:
            SupersededError: the run was started again since.
        """
        if not self.holds():
            self.refuse()

    def refuse(self) -> NoReturn:
        lines = self.path.read_bytes().splitlines()
        raise SupersededError(
            f"{self.path.parent} was taken over by start {len(lines)} of this run ({_told(lines[-1])}): this one, start "
            f"{self.start}, ends and writes nothing more"
        )


def claim(run_dir: Path, launch: LaunchEnv, env: Mapping[str, str]) -> Fence:
    """Makes this the last start of the run. Rank 0 calls it."""
    path = run_dir / NAME
    facts = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "node": launch.node_name,
        "ranks": launch.world_size,
        "process": os.getpid(),
        "job": env.get("SLURM_JOB_ID"),
        "restart": env.get("SLURM_RESTART_COUNT", "0") if "SLURM_JOB_ID" in env else None,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write(json.dumps(facts).encode() + b"\n")
        os.fsync(file.fileno())
        size = file.tell()
    return Fence(path, start=path.read_bytes()[:size].count(b"\n"), size=size)


def _told(line: bytes) -> str:
    try:
        facts = json.loads(line)
        job = f", job {facts['job']} restart {facts['restart']}" if facts["job"] else ""
        return f"{facts['time']} on {facts['node']}{job}"
    except (ValueError, KeyError, TypeError):
        return "whose line cannot be read"
