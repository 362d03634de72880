"""Opens files that are files: a pipe, a terminal or a device in place of one would be waited for without end."""

import errno
import io
import os
import stat

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a disk"),
)


def open_descriptor(path: str | os.PathLike[str]) -> int:
    """A descriptor to read a file with.

    Raises:
        OSError: it cannot be opened, or is a directory, a pipe, a socket or a device.
    """
    # Without O_NONBLOCK the opening of a pipe waits for a writer; files do not mind it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        check_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    """Raises OSError, with words for a person, where `status` is not that of a file."""
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    for is_kind, name in _KINDS:
        if is_kind(status.st_mode):
            raise OSError(errno.EINVAL, f"it is {name}, not a file", os.fspath(path))


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A file, opened to read its bytes; raises like `open_descriptor`."""
    return open(open_descriptor(path), "rb")


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes; raises like `open_descriptor`."""
    with open_regular(path) as file:
        return file.read()
