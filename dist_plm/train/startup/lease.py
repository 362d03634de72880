"""Sees to it that of all processes which think that a run is theirs, only those started last write into it.

A node that is cut off trains on, while its job is started again elsewhere. When it reaches the file system again, or
always did, it must not write. So each start of a run adds a line to RUN_DIR/starts.jsonl, and whoever writes looks first
whether its line is still the last.

A process may stall between its look and its deed, and be superseded meanwhile. Its deed then fails: everything that counts
is put in place by renaming what lies under a name of its start alone, and is taken away by renaming it to such a name; a
new start removes all of these once it has its line, before it reads anything (LocalStorage.clean, MetricsWriter). What is
left: lines of the ranks' logs and of trackers, which name their rank; and object stores, which know no renaming: there a
deed that was begun before may end after.
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from dist_plm.core.errors import Refusal
from dist_plm.distributed.launch_env import LaunchEnv

NAME = "starts.jsonl"


class SupersededError(Refusal):
    """Another start of this run has taken over."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Of one start of a run.

    Args:
        start: its number, from 1.
        line: its own of the file of starts.
    """

    path: Path
    start: int
    line: bytes

    def holds(self) -> bool:
        """Whether this start is still the last."""
        # Network file systems ask their server when a file is opened, not when it is looked at.
        with self.path.open("rb") as file:
            file.seek(-min(len(self.line), os.fstat(file.fileno()).st_size), os.SEEK_END)
            return file.read() == self.line

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
        "id": secrets.token_hex(4),
        "job": env.get("SLURM_JOB_ID"),
        "restart": env.get("SLURM_RESTART_COUNT", "0") if "SLURM_JOB_ID" in env else None,
    }
    line = json.dumps(facts).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())
        before, found, _ = path.read_bytes().rpartition(line)
        if found:  # on network file systems two lines that are added at once may fall onto each other
            return Fence(path, start=before.count(b"\n") + 1, line=line)


def _told(line: bytes) -> str:
    try:
        facts = json.loads(line)
        job = f", job {facts['job']} restart {facts['restart']}" if facts["job"] else ""
        return f"{facts['time']} on {facts['node']}{job}"
    except (ValueError, KeyError, TypeError):
        return "whose line cannot be read"
