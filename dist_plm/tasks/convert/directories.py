"""Directories that are made whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dist_plm.checkpoint.storage import open_storage
from dist_plm.core.errors import CheckpointError
from dist_plm.core.files import TEMPORARY, sync_directory


def refuse_unless_fresh(to: str) -> None:
    """Refuses to write where there is something already.

    Raises:
        CheckpointError: there is something at the path or URL `to`.
    """
    if "://" in to:
        if open_storage(to).steps():
            raise CheckpointError(f"to = {to} holds checkpoints already: name a new place")
        return
    place = Path(to)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise CheckpointError(f"to = {to} is there already: name a new directory, or remove it")


@contextmanager
def fresh_directory(to: str) -> Iterator[str]:
    """A directory that becomes `to` when the block ends without an exception, and is removed otherwise. A URL is given as it
    is: what writes there sees to that itself."""
    if "://" in to:
        yield to
        return
    place = Path(to)
    scratch = place.with_name(place.name + TEMPORARY)
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        yield str(scratch)
        if place.exists():
            place.rmdir()
        scratch.rename(place)
        sync_directory(place.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
