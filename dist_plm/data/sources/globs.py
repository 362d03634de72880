"""The files that a glob means, each once, also where links lead round in circles or to where another path leads too."""

import errno
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dist_plm.core.errors import DataError

_RECURSIVE = "**"
#: Of the system, at the top of a disk; nobody but root may look into it, and nothing of a corpus is there.
_OF_THE_SYSTEM = "lost+found"


def matching_files(pattern: str) -> list[str]:
    """The files that `pattern` matches, by name. Of several paths to one file the one with the fewest folders is taken.

    Where nothing matches, brackets in the pattern are taken as they stand: they may be part of a name.

    Raises:
        DataError: nothing matches, files match and one that has the pattern itself as its name does not, or a folder on the
            way may not be looked into.
    """
    found = _files(_expand(pattern))
    literal = pattern.replace("[", "[[]")
    if not found:
        found = _files(_expand(literal))
    elif os.path.lexists(pattern) and not os.path.isdir(pattern) and pattern not in found:
        raise DataError(
            f"data.sources: {pattern!r} is a pattern, in which brackets hold characters to choose from, and the name of a "
            f"file, which the pattern does not match: write {literal!r} for the file, or give it another name"
        )
    if not found:
        for folder in reversed(Path(pattern).parents):
            _refuse_closed(str(folder))
        hint = f"seen from {os.getcwd()}"
        if os.path.isdir(pattern):
            hint = f"it is a directory, whose text files are {pattern.rstrip('/')}/*.txt"
        raise DataError(f"data.sources: no file matches {pattern!r}, {hint}")
    return _once(found)


def _files(paths: Iterable[str]) -> list[str]:
    return sorted({path for path in paths if not os.path.isdir(path)})


def _once(paths: list[str]) -> list[str]:
    shortest: dict[tuple[int, int] | str, str] = {}
    for path in paths:
        known = shortest.setdefault(file_identity(path) or path, path)
        if path.count("/") < known.count("/"):
            shortest[file_identity(path) or path] = path
    return sorted(shortest.values())


def file_identity(path: str) -> tuple[int, int] | None:
    """Device and inode, which all names of a file share; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _expand(pattern: str) -> Iterator[str]:
    """As glob.glob with `recursive` has it, but no folder is gone through twice: two links to where they stand would make a
    million million paths."""
    parts = pattern.split("/")
    if _RECURSIVE not in parts:
        _refuse_closed_folders(parts)
        yield from glob.iglob(pattern)
        return
    first = parts.index(_RECURSIVE)
    rest = "/".join(parts[first + 1 :]) or "*"
    head = "/".join(parts[:first])
    if first == 0:
        bases: Iterable[str] = [""]
    else:
        bases = glob.iglob(head) if head else ["/"]
    for base in bases:
        for folder in _folders(base):
            yield from _expand(os.path.join(glob.escape(folder), rest))


def _refuse_closed_folders(parts: list[str]) -> None:
    """Refuses folders in which a pattern would look for names and may not, which glob takes for empty."""
    for place, part in enumerate(parts):
        if glob.has_magic(part):
            head = "/".join(parts[:place])
            for folder in glob.iglob(f"{head}/") if head or place else ["."]:
                _refuse_closed(folder)


def _refuse_closed(folder: str) -> None:
    name = os.path.basename(folder.rstrip("/"))
    if not os.access(folder, os.R_OK | os.X_OK) and os.path.isdir(folder) and name != _OF_THE_SYSTEM:
        raise DataError(f"data.sources: cannot look into {folder.rstrip('/')}: {os.strerror(errno.EACCES)}")


def _folders(base: str) -> Iterator[str]:
    """`base` and all folders below it, none twice and real ones before links to them; hidden ones are passed over."""
    seen: set[tuple[int, int]] = set()
    waiting = [base]  # links to folders; they are looked at when all that is no link has been
    while waiting:
        stack = [waiting.pop(0)]
        while stack:
            folder = stack.pop()
            identity = file_identity(folder or ".")
            if identity is None or identity in seen:
                continue
            seen.add(identity)
            yield folder
            below, links = _below(folder)
            stack += reversed(below)
            waiting += links


def _below(folder: str) -> tuple[list[str], list[str]]:
    """Folders in a folder, and links to folders, by name."""
    _refuse_closed(folder or ".")
    try:
        with os.scandir(folder or ".") as entries:
            found = sorted((e.name, e.is_symlink()) for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError:
        return [], []  # as glob has it
    paths = [(os.path.join(folder, name), is_link) for name, is_link in found]
    return [p for p, is_link in paths if not is_link], [p for p, is_link in paths if is_link]
