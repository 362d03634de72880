"""Tells directories of this program from those of others, by an empty file in them.

A name such as `mine.partial` is no proof: a user may have chosen it. What holds no mark is neither removed nor renamed.
"""

import os
import shutil
from pathlib import Path

from dist_plm.core.errors import UserError

_PREFIX = ".dist_plm."


def mark(directory: Path, purpose: str) -> None:
    """Says in a directory that this program made it for `purpose`, a word that is part of a file's name."""
    mark_path(directory, purpose).touch()


def unmark(directory: Path, purpose: str) -> None:
    """Takes the mark back: what is in the directory now belongs to the user."""
    mark_path(directory, purpose).unlink(missing_ok=True)


def mark_path(directory: Path, purpose: str) -> Path:
    """The file that is the mark."""
    assert "/" not in purpose, purpose
    return directory / f"{_PREFIX}{purpose}"


def is_marked(directory: Path, purpose: str) -> bool:
    """Whether this program made a directory for `purpose`. A link to one is somebody else's."""
    return not directory.is_symlink() and mark_path(directory, purpose).is_file()


def is_ours_or_free(directory: Path, purpose: str) -> bool:
    """Whether `claim` will take a directory: it is not there, or is empty, or is marked."""
    if directory.is_symlink():
        return False
    if not directory.exists() or is_marked(directory, purpose):
        return True
    return directory.is_dir() and not any(directory.iterdir())


def claim(directory: Path, purpose: str, remedy: str) -> None:
    """Makes a directory, marked for `purpose`, or takes one that `is_ours_or_free`.

    Args:
        remedy: what the user can do where it is somebody else's, to end a message.
    Raises:
        UserError: it is; nothing was touched.
    """
    check_ours_or_free(directory, purpose, remedy)
    directory.mkdir(parents=True, exist_ok=True)
    mark(directory, purpose)


def check_ours_or_free(directory: Path, purpose: str, remedy: str) -> None:
    """Raises the UserError of `claim`, and changes nothing."""
    if not is_ours_or_free(directory, purpose):
        raise UserError(f"{directory} is there already, and was not made by this program: {remedy}")


def remove(directory: Path, purpose: str) -> None:
    """Removes a marked directory with all that is in it; the mark goes last, so that a kill leaves what is still ours.

    Raises:
        UserError: it is not marked.
    """
    empty(directory, purpose)
    unmark(directory, purpose)
    directory.rmdir()


def empty(directory: Path, purpose: str) -> None:
    """Removes all that is in a marked directory, but for the mark; raises like `remove`."""
    if not is_marked(directory, purpose):
        raise UserError(f"{directory} is not removed: it was not made by this program; move it away")
    own = mark_path(directory, purpose).name
    for entry in list(os.scandir(directory)):
        if entry.name == own:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
