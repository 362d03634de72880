"""Lets only the newest start of a run write into its directory.

A node that was cut off trains on while its job is started again elsewhere. Once it reaches the file system again it must not
write. So each start of a run adds a line to RUN_DIR/starts.jsonl, and a process that wants to write checks first that its line
is still the last.

A process may stall between this check and its write, and a newer start may take over meanwhile. The write must then fail.
Therefore everything that counts is written under a name of its start and put in place by renaming; it is removed by renaming it
back to such a name. A new start, once it has its line and before it reads anything, removes whatever has a name of an earlier
start (LocalStorage.clean, MetricsWriter), so that a late rename finds nothing.

This does not cover lines of the ranks' logs and of trackers, which name their rank, and object stores, which cannot
rename: there a write that was begun before may still arrive."""

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from dist_plm.checkpoint.ownership import Owner
from dist_plm.core.errors import UserError, reason_of
from dist_plm.core.files import open_to_append
from dist_plm.core.regular import read_regular
from dist_plm.distributed.launch_env import LaunchEnv

log = logging.getLogger(__name__)

NAME = "starts.jsonl"


class SupersededError(UserError):
    """Another start of this run has taken over."""


@dataclass(frozen=True, slots=True)
class RunLease:
    """Holds the lease of one start of a run.

    Args:
        start: its number, from 1.
        line: its own of the file of starts.
        run: the name that the run's first start got.
    """

    path: Path
    start: int
    line: bytes
    run: str = ""

    def holds(self) -> bool:
        """Whether this start is still the last."""
        # Network file systems ask their server when a file is opened, not when it is looked at.
        try:
            with self.path.open("rb") as file:
                file.seek(-min(len(self.line), os.fstat(file.fileno()).st_size), os.SEEK_END)
                return file.read() == self.line
        except FileNotFoundError:
            return self._put_back()

    def _put_back(self) -> bool:
        """Makes the file of starts anew, of which somebody removed it: a start that came later would have made one.

        Raises:
            OSError: the run's directory is gone, perhaps for a moment.
        """
        try:
            with self.path.open("xb") as file:
                file.write(self.line)
        except FileExistsError:
            return self.holds()
        log.warning("%s was removed, and is made anew", self.path)
        return True

    def check(self) -> None:
        """Called before anything is written or renamed.

        Raises:
            SupersededError: the run was started again since.
            OSError: that cannot be told now, as the run's directory cannot be reached.
        """
        if not self.holds():
            self.refuse()

    def refuse(self) -> NoReturn:
        lines = self.path.read_bytes().splitlines() or [b""]
        raise SupersededError(
            f"{self.path.parent} was taken over by start {len(lines)} of this run ({_told(lines[-1])}): this one, start "
            f"{self.start}, ends and writes nothing more"
        )


def claim(run_dir: Path, launch: LaunchEnv, env: Mapping[str, str]) -> RunLease:
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run.dir = {run_dir} cannot be made: {reason_of(error, run_dir)}") from None
    while True:
        with open_to_append(path) as file:
            try:
                file.write(line)
                os.fsync(file.fileno())
            except OSError as error:
                raise UserError(f"{path} cannot be written: {reason_of(error, path)}") from None
        before, found, _ = path.read_bytes().rpartition(line)
        if found:  # on network file systems two lines that are added at once may fall onto each other
            return RunLease(path, start=before.count(b"\n") + 1, line=line, run=owner_of(run_dir).name)


def owner_of(run_dir: Path) -> Owner:
    """The run in a directory as the owner of its checkpoints; one that was never started has no name yet."""
    try:
        first, *_ = read_regular(run_dir / NAME).splitlines()
    except (OSError, ValueError):
        return Owner(os.path.abspath(run_dir), "")
    return Owner(os.path.abspath(run_dir), hashlib.sha256(first).hexdigest()[:8])


def _told(line: bytes) -> str:
    try:
        facts = json.loads(line)
        job = f", job {facts['job']} restart {facts['restart']}" if facts["job"] else ""
        return f"{facts['time']} on {facts['node']}{job}"
    except (ValueError, KeyError, TypeError):
        return "whose line cannot be read"
