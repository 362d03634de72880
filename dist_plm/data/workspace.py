"""The directory that a store grows in: beside its final place, locked, resumable, renamed at the end."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dist_plm.data.crew import Crew
from dist_plm.data.files import atomic_writer, sync_directory
from dist_plm.data.manifest import NAME, read_manifest
from dist_plm.errors import DataError

_INPUTS = "inputs.json"
_SCRATCH = "work"


@contextmanager
def workspace(
    out: Path, inputs: dict[str, Any], crew: Crew, report: Callable[[str], None]
) -> Iterator[tuple[Path, Path]]:
    """Yields (store, scratch) directories to build `out` in; when the block ends well, the store moves to `out`.

    The ranks of `crew` get the same directories, and the store moves when the block has ended on all of them.

    What an interrupted run with equal `inputs` left there is still there, perhaps a whole store; what any other run
    left is removed. `scratch` lies inside the store and is removed before the move. What lay at `out` is replaced.

    Raises:
        DataError: another process is at work on the same `out`.
    """
    out = out.resolve()  # through a link, which then goes on pointing at the store
    partial = out.with_name(out.name + ".partial")
    scratch, ranks = partial / _SCRATCH, partial / _SCRATCH / "ranks"
    if crew.rank != 0:
        crew.meet(ranks)
        if not _is_claimed(partial, inputs):
            raise DataError(
                f"rank {crew.rank} does not find in {partial} what rank 0 is at work on: all ranks need the same command, "
                "and see the same files with the same times of change"
            )
        with crew.at_work(ranks):
            yield partial, scratch
        return
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        _lock(lock, partial, report)
        _claim(partial, inputs, report)
        scratch.mkdir(exist_ok=True)
        with crew.at_work(ranks):
            yield partial, scratch
        shutil.rmtree(scratch)
        _publish(partial, out)
    finally:
        os.close(lock)


def check_replaceable(out: Path) -> None:
    """Refuses to replace anything but a store or an empty directory."""
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


def _lock(descriptor: int, partial: Path, report: Callable[[str], None]) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(
            f"another prepare_data is writing {partial}: wait for it, or choose another data.out"
        ) from error
    except OSError as error:
        report(f"{partial} cannot be locked ({error.strerror}): make sure that no other prepare_data writes there")


def _claim(partial: Path, inputs: dict[str, Any], report: Callable[[str], None]) -> None:
    if _is_claimed(partial, inputs):
        report(f"going on with {partial}, which an interrupted run with the same configuration and sources left")
        return
    for entry in partial.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    with atomic_writer(partial / _INPUTS) as file:
        file.write(json.dumps(inputs, indent=2).encode())


def _is_claimed(partial: Path, inputs: dict[str, Any]) -> bool:
    marker = partial / _INPUTS
    return marker.exists() and json.loads(marker.read_text()) == json.loads(json.dumps(inputs))


def _publish(partial: Path, out: Path) -> None:
    sync_directory(partial)
    old = out.with_name(out.name + ".old")
    if old.exists():
        shutil.rmtree(old)  # left by a run that was killed between the renames below
    if out.exists():
        os.rename(out, old)
    os.rename(partial, out)
    (out / _INPUTS).unlink()
    sync_directory(out.parent)
    if old.exists():
        shutil.rmtree(old)
