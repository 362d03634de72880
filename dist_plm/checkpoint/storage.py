"""Where checkpoints lie: a directory that all ranks share, or an fsspec URL (s3://, gs://, memory://).

A directory `step_00000100` of a file system is written as `step_00000100.tmp`, synced and renamed, so one of that name is
always complete. Object stores have no renaming: there the objects are written in place and `checkpoint.json` last.

What is removed, or replaced by a checkpoint, carries a mark of this program: others may have files there.
"""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import xxhash
from fsspec.core import url_to_fs
from fsspec.implementations.memory import MemoryFileSystem

from dist_plm.checkpoint.train_state import NAME
from dist_plm.config.credentials import mask
from dist_plm.core.errors import CheckpointError
from dist_plm.core.files import TEMPORARY, atomic_writer, create_file, remove_tree, swap_directory, sync_directory
from dist_plm.core.marks import mark_path
from dist_plm.core.regular import open_regular

if TYPE_CHECKING:
    from dist_plm.checkpoint.io.blobs import LocalReader, LocalWriter

#: Files that name a checkpoint: the newest, and the best of a run that keeps it.
LATEST, BEST = "latest", "best"
_STEP = re.compile(r"step_(\d{8,})")
#: Marks a directory as a checkpoint of this program before it is complete.
_MARK = mark_path(Path(), "checkpoint").name
#: Begin names of directories: of what is to go, and of what another takes the place of, which is whole.
_REMOVED, _REPLACED = "removed", "replaced"
#: As much as disks and object stores are asked for at a time; the processor's cache holds it until it is hashed.
_READ_BYTES = 4 * 2**20


def name_of(step: int) -> str:
    return f"step_{step:08d}"


def step_of(name: str) -> int | None:
    """The step of a checkpoint's name; None for any other name."""
    found = _STEP.fullmatch(name)
    return int(found[1]) if found else None


class Storage:
    """The place at `url`, through fsspec. Ranks write files with `writer`; rank 0 alone does everything else.

    Attributes:
        guard: called before anything is changed; what it raises keeps that from happening.
        mark: in temporary names, so that writers that do not know of each other do not meet: `.RUN.START`, or `.START`.
        is_of_this_process: whether other processes do not see what is there.
    """

    def __init__(self, url: str) -> None:
        self.guard: Callable[[], None] = lambda: None
        self.mark = ""
        self.url = url.rstrip("/")
        self._shown = mask(url).rstrip("/")
        self._fs, root = url_to_fs(self.url)
        self._root = root.rstrip("/")
        self.is_of_this_process = isinstance(self._fs, MemoryFileSystem)

    def where(self, *parts: str) -> str:
        """How messages call a checkpoint or a file of it."""
        return "/".join([self._shown, *parts])

    def address(self, *parts: str) -> str:
        """Gives the address at which fsspec finds a file, with the credentials that messages leave out."""
        return "/".join([self.url, *parts])

    def steps(self) -> list[int]:
        """Lists the steps of the checkpoints that claim to be complete, ascending."""
        return sorted(s for n in self.names() if (s := step_of(n)) is not None and self.exists(n, NAME))

    def is_own(self, name: str) -> bool:
        """Tells whether this program made the directory `name`."""
        return self.exists(name, NAME) or self.exists(name, _MARK)

    def is_file_or_absent(self, *parts: str) -> bool:
        """Tells whether there is a file that can be read and replaced, or nothing."""
        path = self._path(*parts)
        return not self._fs.exists(path) or bool(self._fs.isfile(path))

    def create(self, data: bytes, *parts: str) -> bool:
        """Writes a file where there is none; False where there is one. Object stores may let two do so at once."""
        if self.exists(*parts):
            return False
        self.write(data, *parts)
        return True

    def exists(self, *parts: str) -> bool:
        return bool(self._fs.exists(self._path(*parts)))

    def size(self, *parts: str) -> int | None:
        """Bytes of a file; None where there is none."""
        try:
            return int(self._fs.size(self._path(*parts)))
        except FileNotFoundError:
            return None

    def open(self, *parts: str) -> IO[bytes]:
        """Opens a file, to read its bytes."""
        return cast(IO[bytes], self._fs.open(self._path(*parts), "rb"))

    def read(self, *parts: str) -> bytes:
        with self.open(*parts) as file:
            return file.read()

    def checksum(self, *parts: str) -> str:
        """Computes the checksum of a file, read in blocks."""
        digest = xxhash.xxh3_128()
        with self.open(*parts) as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def write(self, data: bytes, *parts: str) -> None:
        self.guard()
        try:
            self._fs.pipe_file(self._path(*parts), data)
        except FileNotFoundError:  # file:// has directories
            self._fs.makedirs(self._path(*parts[:-1]), exist_ok=True)
            self._fs.pipe_file(self._path(*parts), data)

    def clean(self) -> None:
        """Removes what saves that never finished left behind."""
        for name in self.names():
            if step_of(name) is not None and not self.exists(name, NAME) and self.exists(name, _MARK):
                self.remove(name)

    def begin(self, name: str) -> str:
        """Makes room for a checkpoint; returns the name under which its files are to be written."""
        self.guard()
        self._refuse_unless_own(name)
        self.remove(name)
        self.write(b"", name, _MARK)
        return name

    def commit(self, name: str) -> None:
        """Makes the checkpoint complete: all its files are written."""

    def remove(self, name: str) -> None:
        self.guard()
        if self.exists(name):
            # What decides completeness goes first.
            if self.exists(name, NAME):
                self._fs.rm(self._path(name, NAME))
            self._fs.rm(self._path(name), recursive=True)

    def _refuse_unless_own(self, name: str) -> None:
        if self.exists(name) and not self.is_own(name):
            raise CheckpointError(f"{self.where(name)} is there and not of this program: it is not replaced")

    def writer(self, directory: str) -> "LocalWriter":
        from dist_plm.checkpoint.io.blobs import UrlWriter  # imports torch, which looking at a checkpoint does without

        self.guard()
        return UrlWriter(self.address(directory), sync_files=False)  # without fsync it would sync the whole machine

    def reader(self, name: str) -> "LocalReader":
        from dist_plm.checkpoint.io.blobs import UrlReader  # as above

        return UrlReader(self.address(name))

    def names(self) -> list[str]:
        """Lists all that is there, whoever made it."""
        self._fs.invalidate_cache()
        if not self._fs.exists(self._root):
            return []
        return [str(path).rstrip("/").rsplit("/", 1)[-1] for path in self._fs.ls(self._root, detail=False)]

    def _path(self, *parts: str) -> str:
        return "/".join([self._root, *parts])


class LocalStorage(Storage):
    """A directory of a local or shared file system."""

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        super().__init__(os.fspath(directory))

    def steps(self) -> list[int]:
        return sorted(step for name in self.names() if (step := step_of(name)) is not None)

    def open(self, *parts: str) -> io.BufferedReader:
        return open_regular(self._directory.joinpath(*parts))

    def write(self, data: bytes, *parts: str) -> None:
        self.guard()
        path = self._directory.joinpath(*parts)
        with atomic_writer(path, temporary=self._temporary(path.name), guard=self.guard) as file:
            file.write(data)
        sync_directory(path.parent)

    def checksum(self, *parts: str) -> str:
        digest, block = xxhash.xxh3_128(), memoryview(bytearray(_READ_BYTES))
        with self.open(*parts) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)  # reads further ahead
            while count := file.readinto(block):
                digest.update(block[:count])
        return digest.hexdigest()

    def clean(self) -> None:
        """Removes what earlier starts left unfinished, so that a writer of theirs that stalled finds nothing left to rename,
        nor a place to move to. An object store cannot do this to others. A checkpoint that was being replaced is there again,
        as the new one if that is whole."""
        run, end = re.escape(self.mark.rpartition(".")[0]), re.escape(TEMPORARY)
        own = re.compile(rf"({_STEP.pattern}|{LATEST}|{BEST}|{_REMOVED}|{_REPLACED}){run}(\.\d+)?{end}")
        left = [name for name in self.names() if own.fullmatch(name)]
        for place in left:
            if place.startswith(_REPLACED):
                self._put_back(place)
        for name in left:
            self.remove(name)

    def _put_back(self, place: str) -> None:
        for old in (self._directory / place).iterdir():
            final, fresh = self._directory / old.name, self._directory / f"{old.name}{place.removeprefix(_REPLACED)}"
            if not final.exists():
                self.guard()
                (fresh if (fresh / NAME).exists() else old).rename(final)
                sync_directory(self._directory)

    def create(self, data: bytes, *parts: str) -> bool:
        self.guard()
        path = self._directory.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            create_file(path, data)
        except FileExistsError:
            return False
        return True

    def begin(self, name: str) -> str:
        self._refuse_unless_own(name)
        temporary = self._temporary(name)
        self.remove(temporary)
        (self._directory / temporary).mkdir(parents=True)
        (self._directory / temporary / _MARK).touch()
        return temporary

    def commit(self, name: str) -> None:
        final, fresh = self._directory / name, self._directory / self._temporary(name)
        sync_directory(fresh)
        replaced = self._place(_REPLACED) / name if final.exists() else None
        self.guard()
        if replaced is None:
            fresh.rename(final)
        else:
            swap_directory(fresh, final, aside=replaced)
        sync_directory(self._directory)
        if replaced is not None:
            remove_tree(replaced.parent.rename(self._place(_REMOVED)))

    def remove(self, name: str) -> None:
        path = self._directory / name
        is_complete = step_of(name) is not None and path.exists()
        doomed = self._place(_REMOVED) / name if is_complete else path
        self.guard()
        if is_complete:
            # A kill in the middle must not leave half a checkpoint under a complete one's name.
            doomed = path.rename(doomed).parent
        if doomed.is_dir():
            remove_tree(doomed)
        else:
            doomed.unlink(missing_ok=True)

    def writer(self, directory: str) -> "LocalWriter":
        from dist_plm.checkpoint.io.blobs import LocalWriter  # as above

        self.guard()
        return LocalWriter(self._directory / directory)

    def reader(self, name: str) -> "LocalReader":
        from dist_plm.checkpoint.io.blobs import LocalReader  # as above

        return LocalReader(self._directory / name)

    def _temporary(self, name: str) -> str:
        return name + self.mark + TEMPORARY

    def _place(self, kind: str) -> Path:
        """An empty directory of this writer alone, to move to. Made before the guard is asked, not after: once others have
        cleaned, it is not there any more."""
        place = self._directory / self._temporary(kind)
        remove_tree(place)
        place.mkdir(parents=True)
        return place


def open_storage(url: str) -> Storage:
    """Where `url` points: a URL of fsspec, or a path."""
    return Storage(url) if "://" in url else LocalStorage(url)
