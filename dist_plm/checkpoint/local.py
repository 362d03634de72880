"""Checkpoints that continue a run on the same process grid: one file a rank, written beside, then renamed.

`step_00000100/` is always complete: every rank has written and synced its file into `step_00000100.tmp/` before rank 0
renames the directory, and `latest` is moved after that.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dist_plm.errors import CheckpointError

FORMAT = 1


class LocalCheckpoints:
    """The checkpoints of one run.

    Args:
        directory: RUN_DIR/checkpoints, shared by all ranks.
        grid: degrees of the axes and whatever else must be equal for a rank's file to fit.
        identity: of the data order; a run continues only over the same one.
        keep: how many complete checkpoints stay.
        world: group of all ranks.
    """

    def __init__(
        self, directory: Path, *, grid: Mapping[str, Any], identity: str, keep: int, world: dist.ProcessGroup
    ) -> None:
        self._directory, self._keep, self._world = directory, keep, world
        self._facts = {"format": FORMAT, "grid": dict(grid), "data": identity}

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Writes this rank's state; collective. Returns the complete checkpoint's directory."""
        final = self._directory / f"step_{step:08d}"
        temporary = final.with_suffix(".tmp")
        if self._world.rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        dist.barrier(group=self._world)
        _write_synced(temporary / _rank_file(self._world.rank()), lambda file: torch.save(dict(state), file))
        dist.barrier(group=self._world)
        if self._world.rank() == 0:
            facts = json.dumps({**self._facts, "step": step}, indent=2).encode()
            _write_synced(temporary / "checkpoint.json", lambda file: file.write(facts))
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            _sync_directory(self._directory)
            self._point_latest(final.name)
            self._drop_old()
        dist.barrier(group=self._world)
        return final

    def find(self, resume: str) -> Path | None:
        """The checkpoint that train.resume asks for: the run's latest with `auto`, none with `none`, else that path."""
        if resume == "none":
            return None
        if resume != "auto":
            return Path(resume)
        latest = self._directory / "latest"
        if not latest.exists():
            return None
        return self._directory / latest.read_text().strip()

    def load(self, checkpoint: Path) -> tuple[int, dict[str, Any]]:
        """The step and this rank's state.

        Raises:
            CheckpointError: nothing complete is there, or it was made on another grid or over other data.
        """
        try:
            facts = json.loads((checkpoint / "checkpoint.json").read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint} is not a complete checkpoint ({error}); name another with train.resume=PATH, "
                "or start anew with train.resume=none"
            ) from None
        step = facts.pop("step")
        if facts != self._facts:
            changed = [
                f"{name}: {facts.get(name)} -> {value}"
                for name, value in self._facts.items()
                if facts.get(name) != value
            ]
            raise CheckpointError(
                f"{checkpoint} was made by a run that does not fit this one ({'; '.join(changed)}); give the same "
                "parallel.*, engine.*, precision and data.* again, or start anew with train.resume=none"
            )
        file = checkpoint / _rank_file(self._world.rank())
        try:
            return step, torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); name another with train.resume=PATH") from None

    def _point_latest(self, name: str) -> None:
        fresh = self._directory / "latest.tmp"
        _write_synced(fresh, lambda file: file.write(f"{name}\n".encode()))
        fresh.replace(self._directory / "latest")
        _sync_directory(self._directory)

    def _drop_old(self) -> None:
        for old in sorted(self._directory.glob("step_????????"))[: -self._keep]:
            shutil.rmtree(old)


def _rank_file(rank: int) -> str:
    return f"rank_{rank:05d}.pt"


def _write_synced(path: Path, write: Any) -> None:
    with path.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
