"""Directories that are made whole or not at all."""

import errno
import fcntl
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dist_plm.checkpoint.storage import open_storage
from dist_plm.core import marks
from dist_plm.core.errors import CheckpointError, UserError, reason_of
from dist_plm.core.files import TEMPORARY, sync_directory

#: What the mark of a directory says that is still being filled.
_GROWING = "convert"


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
    if os.path.lexists(place) and (not place.is_dir() or any(place.iterdir())):
        raise CheckpointError(f"to = {to} is there already: name a new directory, or remove it")


def as_path(to: str) -> str:
    """Writes a directory so that train.resume takes it for a path, not for a word."""
    return to if "/" in to else f"./{to}"


@contextmanager
def fresh_directory(to: str) -> Iterator[str]:
    """A directory that becomes `to` when the block ends without an exception, and is removed otherwise. A URL is given as it
    is: what writes there sees to that itself.

    Raises:
        CheckpointError: there is something at `to` when the block has ended, or a file could not be written.
    """
    if "://" in to:
        yield to
        return
    place = Path(to).resolve()
    _remove_leftovers(place)
    scratch = place.with_name(f"{place.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        marks.claim(scratch, _GROWING, "start again")
    except OSError as error:
        raise CheckpointError(f"to = {to} cannot be written: {reason_of(error, scratch)}") from None
    lock = os.open(scratch, os.O_RDONLY)
    try:
        _lock(lock)
        yield str(scratch)
        _publish(scratch, place, to)
    except BaseException as error:
        if scratch.exists():
            marks.remove(scratch, _GROWING)
        if (reason := _disk_error(error)) is not None:
            is_read = (file := getattr(error, "filename", None)) and not str(file).startswith(str(scratch))
            raise CheckpointError(f"to = {to} cannot be {'made' if is_read else 'written'}: {reason}") from None
        raise
    finally:
        os.close(lock)


def _disk_error(error: BaseException) -> str | None:
    """Tells what went wrong with a file; torch.save hides it behind what it ran into afterwards."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    if found is None and "PytorchStreamWriter" in str(error):
        return str(error).partition("\n")[0]
    return None if found is None or isinstance(error, UserError) else reason_of(found)


def _publish(scratch: Path, place: Path, to: str) -> None:
    try:
        scratch.rename(place)  # onto an empty directory too
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise CheckpointError(f"to = {to} was made by another program meanwhile: name a new directory") from None
    marks.unmark(place, _GROWING)
    sync_directory(place.parent)


def _remove_leftovers(place: Path) -> None:
    """Removes what conversions to the same place left that were killed; one that is still at work holds a lock."""
    for left in place.parent.glob(f"{glob.escape(place.name)}.*{TEMPORARY}"):
        if not marks.is_marked(left, _GROWING):
            continue
        lock = os.open(left, os.O_RDONLY)
        try:
            if _lock(lock):
                marks.remove(left, _GROWING)
        finally:
            os.close(lock)


def _lock(descriptor: int) -> bool:
    """Tells whether it is ours now; where there are no locks, it is not."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
