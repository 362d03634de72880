"""The directory that a store grows in: beside its final place, locked, resumable, renamed at the end."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dist_plm.core import marks
from dist_plm.core.errors import DataError, reason_of
from dist_plm.core.files import TEMPORARY, atomic_writer, sync_directory
from dist_plm.data.prepare.worker_group import WorkerGroup
from dist_plm.data.store.manifest import NAME, SPLITS, read_manifest
from dist_plm.data.tokenizers.save import COMPANION_NAMES
from dist_plm.data.tokenizers.tokenizer_files import FILE_NAME

REJECTED = "rejected.jsonl"
_INPUTS = "inputs.json"
_SCRATCH = "work"
#: All that a finished store may hold.
_NAMES = {
    NAME,
    FILE_NAME,
    REJECTED,
    *COMPANION_NAMES,
    *(f"{split}.{suffix}" for split in SPLITS for suffix in ("bin", "idx")),
}
#: Marks of directories: one in which a store grows, and one which a new store takes the place of.
_GROWING, _REPLACED = "store", "replaced-store"
_REMEDY = "move it away, or choose another data.out"


@contextmanager
def workspace(
    out: Path, inputs: dict[str, Any], group: WorkerGroup, report: Callable[[str], None], *, overwrite: bool
) -> Iterator[tuple[Path, Path]]:
    """Yields (store, scratch) directories to build `out` in; when the block ends well, the store moves to `out`.

    The ranks of `group` get the same directories, and the store moves when the block has ended on all of them.

    What an interrupted run with equal `inputs` left there is still there, perhaps a whole store; what any other run
    left is removed. `scratch` lies inside the store and is removed before the move. A store at `out` is replaced if
    `overwrite` says so.

    Raises:
        UserError: a directory of the user's is in the way, or another process is at work on the same `out`.
    """
    out = out.resolve()  # through a link, which then goes on pointing at the store
    partial = _partial(out)
    scratch, ranks = partial / _SCRATCH, partial / _SCRATCH / "ranks"
    if group.rank != 0:
        group.meet(ranks)
        if not _is_claimed(partial, inputs):
            raise DataError(
                f"rank {group.rank} does not find in {partial} what rank 0 is at work on: all ranks need the same command, "
                "and see the same files with the same times of change"
            )
        with group.at_work(ranks):
            yield partial, scratch
        return
    _check_replaced(out)
    marks.claim(partial, _GROWING, _REMEDY)
    lock = os.open(partial, os.O_RDONLY)
    try:
        _lock(lock, partial, report)
        _claim(partial, inputs, report)
        scratch.mkdir(exist_ok=True)
        with group.at_work(ranks):
            yield partial, scratch
        shutil.rmtree(scratch)
        _publish(partial, out, overwrite=overwrite)
    finally:
        os.close(lock)


def check_replaceable(out: Path, *, overwrite: bool) -> None:
    """Refuses anything but a store or an empty directory and, to be overwritten, a store with files of others in it."""
    if not out.is_dir():
        raise DataError(f"data.out = {str(out)!r} is a file; name a directory")
    if out.samefile(os.curdir):
        raise DataError(f"data.out = {str(out)!r} is the current directory; name one inside it")
    if any(out.iterdir()):
        try:
            read_manifest(out)
        except DataError as error:
            if not (out / NAME).exists():  # a damaged manifest is still a store's
                raise DataError(
                    f"data.out = {str(out)!r} is a directory that holds something other than a store; it is not "
                    "replaced, choose another"
                ) from error

    others = sorted(entry.name for entry in out.iterdir() if not _is_ours(entry.name))
    if overwrite and others:
        raise DataError(
            f"data.out = {str(out)!r} holds {', '.join(others[:5])}, which prepare_data did not write: move it elsewhere, "
            "so that the store can be replaced"
        )


def _is_ours(name: str) -> bool:
    own_marks = {marks.mark_path(Path(), purpose).name for purpose in (_GROWING, _REPLACED)}
    return name.removesuffix(TEMPORARY) in {*_NAMES, *own_marks, _INPUTS}


def settle(out: Path) -> None:
    """Does what is left to do once a store has moved to `out`, also for a run that was killed before it did."""
    if not marks.is_marked(out, _GROWING):
        return
    (out / _INPUTS).unlink(missing_ok=True)
    if marks.is_marked(_replaced(out), _REPLACED):
        marks.remove(_replaced(out), _REPLACED)
    marks.unmark(out, _GROWING)


def _lock(descriptor: int, partial: Path, report: Callable[[str], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(
            f"another prepare_data is writing {partial}: wait for it, or choose another data.out"
        ) from error
    except OSError as error:
        report(
            f"{partial} cannot be locked ({reason_of(error, partial)}): make sure that no other prepare_data writes there"
        )


def _claim(partial: Path, inputs: dict[str, Any], report: Callable[[str], None]) -> None:
    if _is_claimed(partial, inputs):
        report(f"going on with {partial}, which an interrupted run with the same configuration and sources left")
        return
    marks.empty(partial, _GROWING)
    with atomic_writer(partial / _INPUTS) as file:
        file.write(json.dumps(inputs, indent=2).encode())


def _is_claimed(partial: Path, inputs: dict[str, Any]) -> bool:
    path = partial / _INPUTS
    return path.exists() and json.loads(path.read_text()) == json.loads(json.dumps(inputs))


def _publish(partial: Path, out: Path, *, overwrite: bool) -> None:
    sync_directory(partial)
    if out.exists():
        check_replaceable(out, overwrite=True)  # again: hours have passed
        _make_room(out, overwrite=overwrite)
    os.rename(partial, out)
    sync_directory(out.parent)
    settle(out)


def _make_room(out: Path, *, overwrite: bool) -> None:
    """Moves a store aside; an empty directory is renamed over."""
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise DataError(f"data.out = {str(out)!r} holds a store now: data.overwrite=true replaces it")
    _check_replaced(out)
    old = _replaced(out)
    if old.exists():
        marks.remove(old, _REPLACED)  # left by a run that was killed before it had settled
    marks.mark(out, _REPLACED)
    os.rename(out, old)


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _replaced(out: Path) -> Path:
    return out.with_name(out.name + ".old")


def places_of(out: Path) -> list[Path]:
    """Names the directories of a store: where it is, where it grows, and where the one goes that it takes the place of."""
    return [out, _partial(out), _replaced(out)] if out.name else [out]  # nothing lies beside "." by its name


def _check_replaced(out: Path) -> None:
    """Refuses a place for the store that is replaced, where one is, that holds something of the user's."""
    old = _replaced(out)
    if out.exists() and any(out.iterdir()) and os.path.lexists(old) and not marks.is_marked(old, _REPLACED):
        raise DataError(f"{old} is there already, and was not made by this program: {_REMEDY}")
