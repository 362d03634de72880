"""Tells from what checkpoints say of themselves where a run will go on, before ranks have met. Needs no PyTorch.

Every checkpoint keeps how its run began, as `begun_as`. Where train.resume says the same, this is the same run, started
again: the path that it started from, or nothing, is where it was once, not where it is now. Where it says something else, a
person wants it.
"""

import hashlib
import os

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.lookup import candidates, locate
from dist_plm.checkpoint.storage import Storage, open_storage
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.core.errors import CheckpointError
from dist_plm.train.startup.run_position import Position

AUTO, NONE = "auto", "none"


def begun_as(resume: str) -> str:
    """Gives what a checkpoint keeps of train.resume: a digest, as a URL may hold what others must not read."""
    path = resume if resume in (AUTO, NONE) or "://" in resume else os.path.abspath(resume)
    return hashlib.sha256(path.encode()).hexdigest()[:16]


def resumes_own(resume: str, storage: Storage) -> bool:
    """Tells whether there is a checkpoint in a run's `storage` that it resumes from, whether or not that is damaged."""
    if resume == AUTO:
        return bool(storage.steps())
    newest = _newest(storage, candidates(storage))
    return newest is not None and newest.loop.get("begun_as") == begun_as(resume)


def expected_position(resume: str, checkpoints: str) -> Position:
    """Gives the position of the checkpoint that a run will resume from, at the path or URL of its own or at train.resume; the
    beginning where there is none, or none that can be read, which is refused where it is opened."""
    storage = open_storage(checkpoints)
    try:
        if resumes_own(resume, storage):
            state = _newest(storage, candidates(storage))
        elif resume in (AUTO, NONE):
            state = None
        else:
            parent, name = locate(resume)
            there = open_storage(parent)
            state = _newest(there, [name] if name else candidates(there))
    except (OSError, CheckpointError):
        state = None
    if state is None or not state.engine:  # weights alone: a run begins with them
        return Position()
    return Position.of(state, list(state.history))


def _newest(storage: Storage, names: list[str]) -> TrainState | None:
    """Reads the train state of the first checkpoint that can be read."""
    for name in names:
        try:
            return state_file.decode(storage.read(name, state_file.NAME), storage.where(name))
        except (OSError, CheckpointError):
            continue
    return None
