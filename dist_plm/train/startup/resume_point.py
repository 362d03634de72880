"""Finds whether a run resumes from a checkpoint of its own, or starts as train.resume says."""

import logging

import torch.distributed as dist

from dist_plm.checkpoint.lookup import missed
from dist_plm.checkpoint.open_checkpoint import Checkpoint, find
from dist_plm.checkpoint.storage import Storage
from dist_plm.config.credentials import mask
from dist_plm.distributed.collectives import on_first
from dist_plm.interop.kinds import refuse_foreign
from dist_plm.train.opening.expected_position import AUTO, NONE, begun_as, resumes_own

log = logging.getLogger(__name__)


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
        if resume != AUTO and (lost := on_first(group, lambda: missed(storage))) is not None:
            log.warning("%s: the run begins as train.resume=%s says", lost, mask(resume))
        return find(resume, storage, group, verify=verify), begun_as(resume)
    found = find(AUTO, storage, group, verify=verify)
    assert found is not None
    if resume != AUTO:
        log.info("train.resume says how this run began: it goes on from its own checkpoint, %s", found.where)
    return found, found.train_state.loop.get("begun_as", begun_as(AUTO))
