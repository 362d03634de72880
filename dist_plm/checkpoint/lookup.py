"""Finds checkpoints by their paths, and compares their files with what was written. Needs no PyTorch."""

import logging
import pickle
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.io.outline import Outline, read_outline
from dist_plm.checkpoint.storage import BEST, LATEST, Storage, name_of, open_storage, step_of
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.config.credentials import mask
from dist_plm.core.errors import CheckpointError, reason_of

log = logging.getLogger(__name__)

REMEDY = "name another with train.resume=PATH, or start anew with train.resume=none"
#: That look at files, one each: a disk or an object store gives more to several, and checksums are taken side by side.
_NUM_THREADS = 4
#: As much of a file is shown that should hold a name.
_TOLD_BYTES = 4096


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint that claims to be complete."""

    storage: Storage
    name: str
    train_state: TrainState

    @property
    def where(self) -> str:
        return self.storage.where(self.name)

    def outline(self) -> Outline:
        """Reads which tensors it holds, and where their values lie.

        Raises:
            CheckpointError: the file that tells it is damaged.
        """
        try:
            with self.storage.open(self.name, ".metadata") as stream:
                return read_outline(stream)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise unreadable_metadata(self.where, error) from None


def unreadable_metadata(where: str, error: BaseException) -> CheckpointError:
    """Makes the error that refuses a checkpoint whose list of tensors cannot be read."""
    return CheckpointError(f"{where}/.metadata cannot be read: {reason_of_named(error)}", REMEDY)


def look_up(path: str) -> tuple[FoundCheckpoint, list[str]]:
    """Finds the checkpoint at `path`, or the newest of the run there, and what is wrong with its files. In one process.

    Raises:
        CheckpointError: there is none, or its train_state is damaged.
    """
    parent, name = locate(path)
    storage = open_storage(parent)
    if not name:
        names = candidates(storage)
        if not names:
            raise CheckpointError(f"there is no checkpoint in {storage.where()}")
        name = names[0]
    train_state = decode_train_state(read_train_state(storage, name), storage, name)
    return FoundCheckpoint(storage, name, train_state), damages(
        storage, name, train_state.files, train_state, verify=True
    )


def locate(path: str) -> tuple[str, str]:
    """Parent and name of the checkpoint at `path`, or that `best` in a directory of checkpoints names; no name where `path` is
    such a directory, or `latest` in it."""
    path = path.rstrip("/")
    parent, _, name = path.rpartition("/")
    with _readable(mask(path)):
        if name == LATEST and open_storage(parent or ".").exists(LATEST):
            return parent or ".", ""
        if name == BEST and (best := named_best(open_storage(parent or "."))) is not None:
            return parent or ".", best
        for directory in (path, f"{path}/checkpoints"):
            if open_storage(directory).exists(LATEST):
                return directory, ""
        if not open_storage(path).exists():
            raise CheckpointError(f"there is nothing at {path}", REMEDY)
        if not open_storage(path).exists(state_file.NAME):
            raise CheckpointError(f"{path} is not a complete checkpoint: it has no {state_file.NAME}", REMEDY)
    return parent or ".", name


def named_latest(storage: Storage) -> str:
    """Reads what the file beside the checkpoints names as the latest, which may be of another program.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    return storage.read(LATEST)[:_TOLD_BYTES].decode(errors="replace").strip()


def named_best(storage: Storage) -> str | None:
    """Names the best checkpoint of a run that keeps it; None where there is none.

    Raises:
        OSError: the file that tells it cannot be read.
    """
    try:
        name = storage.read(BEST).decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    return name if step_of(name) is not None else None


def best_checkpoint(storage: Storage) -> FoundCheckpoint | None:
    """Finds the best checkpoint of a run that keeps it; None where there is none that can be read."""
    try:
        name = named_best(storage)
        if name is None:
            return None
        return FoundCheckpoint(storage, name, decode_train_state(read_train_state(storage, name), storage, name))
    except (OSError, CheckpointError):
        return None


@contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{where} cannot be read: {reason_of(error, where)}", REMEDY) from None


def candidates(storage: Storage) -> list[str]:
    """The checkpoint that `latest` names, then those before it, newest first."""
    with _readable(storage.where()):
        steps = storage.steps()
    if not steps:
        return []
    try:
        latest = step_of(named_latest(storage))
    except FileNotFoundError:
        latest = None
    except OSError as error:
        raise CheckpointError(f"{storage.where(LATEST)} cannot be read: {reason_of_named(error)}", REMEDY) from None
    if latest not in steps:
        log.warning("%s names no checkpoint; the newest one counts", storage.where(LATEST))
        latest = steps[-1]
    # Later ones belong to a continuation of the run that was given up.
    return [name_of(step) for step in reversed(steps) if step <= latest]


def missed(storage: Storage) -> str | None:
    """Says that checkpoints were there once, as `latest` tells, where none is."""
    if storage.steps() or not storage.exists(LATEST):
        return None
    return f"{storage.where(LATEST)} names {named_latest(storage)}, and no checkpoint is there"


def read_train_state(storage: Storage, name: str) -> bytes:
    """Reads the file of the checkpoint `name` that is written last.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    try:
        return storage.read(name, state_file.NAME)
    except FileNotFoundError:
        raise CheckpointError(
            f"{storage.where(name)} is not a complete checkpoint: it has no {state_file.NAME}", REMEDY
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{storage.where(name, state_file.NAME)} cannot be read: {reason_of_named(error)}", REMEDY
        ) from None


def decode_train_state(data: bytes, storage: Storage, name: str) -> TrainState:
    """Makes the train state of the checkpoint `name` out of what its file holds.

    Raises:
        CheckpointError: it is damaged, or of a checkpoint of another name.
    """
    try:
        train_state = state_file.decode(data, storage.where(name, state_file.NAME))
    except CheckpointError as error:
        raise CheckpointError(error.reason, REMEDY) from None
    if step_of(name) not in (None, train_state.step):
        raise CheckpointError(
            f"{storage.where(name)} was saved after step {train_state.step}, as its {state_file.NAME} says: it was renamed or "
            "copied over another",
            REMEDY,
        )
    return train_state


def damages(storage: Storage, name: str, files: Iterable[str], train_state: TrainState, *, verify: bool) -> list[str]:
    """Finds what is wrong with `files` of a checkpoint: their sizes, with `verify` their checksums."""
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        told = threads.map(lambda file: _damage(storage, name, file, train_state, verify=verify), files)
        return [problem for problem in told if problem is not None]


def _damage(storage: Storage, name: str, file: str, train_state: TrainState, *, verify: bool) -> str | None:
    record = train_state.files[file]
    try:
        size = storage.size(name, file)
        if size is None:
            return f"{file} is missing"
        if size != record.bytes:
            return f"{file} holds {size:,} bytes where {record.bytes:,} were written"
        if verify and storage.checksum(name, file) != record.checksum:
            return f"{file} is not what was written: its checksum differs"
    except Exception as error:  # what storage of other makers raises is not known; the other ranks wait for it
        return f"{file} cannot be read: {reason_of_named(error)}"
    return None


def reason_of_named(error: BaseException) -> str:
    """Says why, of a file that the message names."""
    return reason_of(error, getattr(error, "filename", None))
