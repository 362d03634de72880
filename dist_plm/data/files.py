"""Files that are either whole or absent: written under a temporary name, synced, then renamed."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: Ends the names of files that are still being written.
TEMPORARY = ".tmp"
_COPY_BYTES = 4 * 2**20


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Opens a binary file that appears at `path`, whole, when the block ends without an exception, never otherwise.

    A power cut may undo the appearance, until `sync_directory`."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        with open(temporary, "wb", buffering=_COPY_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_directory(path: Path) -> None:
    """Makes the renames in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_into(source: Path, target: BinaryIO) -> None:
    """Appends the contents of `source` to an open file."""
    with open(source, "rb") as file:
        while block := file.read(_COPY_BYTES):
            target.write(block)
