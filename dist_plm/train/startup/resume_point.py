"""Tells whether a run resumes from a checkpoint of its own, or starts as train.resume says.

Every checkpoint keeps how its run began, as `begun_as`. Where train.resume says the same, this is the same run, started
again: the path that it started from, or nothing, is where it was once, not where it is now. Where it says something else, a
person wants it.
"""

import hashlib
import logging
import os

import torch.distributed as dist

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.lookup import candidates
from dist_plm.checkpoint.open_checkpoint import Checkpoint, find
from dist_plm.checkpoint.storage import Storage
from dist_plm.core.errors import CheckpointError
from dist_plm.distributed.collectives import on_first
from dist_plm.interop.kinds import refuse_foreign

log = logging.getLogger(__name__)

AUTO, NONE = "auto", "none"


def begun_as(resume: str) -> str:
    """Gives what a checkpoint keeps of train.resume: a digest, as a URL may hold what others must not read."""
    path = resume if resume in (AUTO, NONE) or "://" in resume else os.path.abspath(resume)
    return hashlib.sha256(path.encode()).hexdigest()[:16]


def resumes_own(resume: str, storage: Storage) -> bool:
    """Tells whether there is a checkpoint in a run's `storage` that it resumes from, whether or not that is damaged."""
    if resume == AUTO:
        return bool(storage.steps())
    for name in candidates(storage):
        try:
            begun = state_file.decode(storage.read(name, state_file.NAME), storage.where(name)).loop.get("begun_as")
        except (OSError, CheckpointError):
            continue
        return begun == begun_as(resume)
    return False


def find_resumed(
    resume: str, storage: Storage, group: dist.ProcessGroup, *, verify: bool
) -> tuple[Checkpoint | None, str]:
    """The checkpoint that a run resumes from or starts from, None for none, and how the run began (`begun_as`). Collective
    over `group`, all ranks.

    Raises:
        CheckpointError: see `find`.
    """
    if not on_first(group, lambda: resumes_own(resume, storage)):
        if resume not in (AUTO, NONE):
            on_first(group, lambda: refuse_foreign(resume))
        return find(resume, storage, group, verify=verify), begun_as(resume)
    found = find(AUTO, storage, group, verify=verify)
    assert found is not None
    if resume != AUTO:
        log.info("train.resume says how this run began: it goes on from its own checkpoint, %s", found.where)
    return found, found.train_state.loop.get("begun_as", begun_as(AUTO))
