"""Files that are either whole or absent: written under a temporary name, synced, then renamed."""

import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from dist_plm.core.errors import UserError, reason_of
from dist_plm.core.regular import check_regular, open_regular

#: Ends the names of files that are still being written.
TEMPORARY = ".tmp"
_COPY_BYTES = 4 * 2**20
_COPY_RANGE_BYTES = 2**30
#: Of a directory into which another process may still write.
_REMOVE_ATTEMPTS = 20
#: What the system answers where these two files cannot be copied within the kernel.
_NO_COPY_RANGE = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
#: What it answers where a file has a single name, as on exFAT, on some shares and object stores that are mounted.
_NO_LINK = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextmanager
def atomic_writer(
    path: Path, *, temporary: str | None = None, guard: Callable[[], None] = lambda: None, sync: bool = True
) -> Iterator[BinaryIO]:
    """Opens a binary file that appears at `path`, whole, when the block ends without an exception, never otherwise.

    A power cut may undo the appearance, until `sync_directory`; without `sync` it may leave an empty file.

    Args:
        temporary: the name that the file has until then, where writers may meet that do not know of each other.
        guard: called once all is written; what it raises keeps the file from appearing.
    """
    unfinished = path.with_name(temporary or path.name + TEMPORARY)
    try:
        with open(unfinished, "wb", buffering=_COPY_BYTES) as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        guard()
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):  # what is told is why
            unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def output_writer(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that a person names, to appear whole or not at all; what is there is replaced, and no name beside it used.

    Raises:
        OSError: it cannot be written, or what is there is no file, like a device, of which nothing would be left.
    """
    check_output(path)
    with atomic_writer(path, temporary=f".{path.name}.{os.getpid()}{TEMPORARY}") as file:
        yield file


def check_output(path: Path) -> None:
    """Raises OSError, with words for a person, where `path` is no name of a file, or what is there is a link or no file."""
    if not path.name:
        raise OSError(errno.EINVAL, "it is no name of a file", os.fspath(path))
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.EINVAL, "it is a link, not a file", os.fspath(path))
    check_regular(status, path)


def make_directory(path: Path, *, private: bool, is_new: bool = False) -> None:
    """Makes a directory where there is none, for its owner alone if `private`; one that there is stays as it is.

    Raises:
        FileExistsError: it `is_new`, and yet there, or is no directory.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700 if private else 0o777)
    except FileExistsError:
        if is_new or not path.is_dir():
            raise


def open_to_append(path: Path, *, readable: bool = False) -> io.FileIO:
    """A file of ours to add to, made where there is none. What is written is there at once, or an OSError is raised.

    Raises:
        UserError: it is a link, by which something elsewhere would be added to, or no file.
    """
    try:
        access = os.O_RDWR if readable else os.O_WRONLY
        descriptor = os.open(path, access | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        check_regular(os.fstat(descriptor), path)
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else reason_of(error, path)
        raise UserError(f"{path} cannot be written: {reason}; move it away") from None
    return io.FileIO(descriptor, "a+" if readable else "a")


def swap_directory(fresh: Path, final: Path, *, aside: Path) -> None:
    """Renames a directory to the name of another, which is renamed to `aside`, and back where this fails. A kill in between
    leaves nothing at `final`."""
    final.rename(aside)
    try:
        fresh.rename(final)
    except OSError:
        with suppress(OSError):  # what is told is why
            aside.rename(final)
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
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_into(source: Path, target: BinaryIO) -> None:
    """Appends the contents of `source` to an open file.

    The kernel does it where it can, and by reference on file systems that share blocks (Btrfs, XFS).
    """
    target.flush()
    with open(source, "rb", buffering=0) as file:
        if hasattr(os, "copy_file_range"):
            try:
                while os.copy_file_range(file.fileno(), target.fileno(), _COPY_RANGE_BYTES):
                    pass
            except OSError as error:
                if error.errno not in _NO_COPY_RANGE:
                    raise
        while block := file.read(_COPY_BYTES):
            target.write(block)


def link_or_copy(source: Path, target: Path) -> None:
    """Makes `target` a second name of the file `source`, or a copy where the file system has no such names; atomic."""
    if target.exists() and target.samefile(source):
        return
    temporary = target.with_name(target.name + TEMPORARY)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
        os.replace(temporary, target)
    except OSError:
        with atomic_writer(target) as file:
            copy_into(source, file)


def create_file(path: Path, data: bytes) -> None:
    """Makes a file of `data` whose name is not taken; of several writers at once, one does. It appears whole, but where a
    file system has no second names for a file.

    Raises:
        FileExistsError: the name is taken.
    """
    whole = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        whole.write_bytes(data)
        os.link(whole, path)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        _create_in_place(path, data)
    finally:
        whole.unlink(missing_ok=True)


def _create_in_place(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)  # half a file would be taken for a whole one
            raise


def remove_tree(directory: Path) -> None:
    """Removes a directory, also where another process is still writing into it, which its next file ends: then it may not be
    empty at first."""
    for attempt in range(_REMOVE_ATTEMPTS):
        try:
            shutil.rmtree(directory)
        except FileNotFoundError:
            # It is gone, or something of it was removed by another process at the same time.
            if not directory.exists():
                return
        except OSError:
            if attempt == _REMOVE_ATTEMPTS - 1:
                raise
            time.sleep(0.1)
