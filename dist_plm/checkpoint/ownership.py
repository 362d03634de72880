"""Whose a directory of checkpoints is: two runs in one would go on from each other's, and remove them.

The first run that saves there leaves its name in a file. What was copied or moved elsewhere since belongs to nobody.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.lookup import named_latest
from dist_plm.checkpoint.storage import LATEST, Storage, step_of
from dist_plm.core.errors import CheckpointError, reason_of
from dist_plm.core.installed import typed_setting

NAME = ".dist_plm.run"


@dataclass(frozen=True, slots=True)
class Owner:
    """A run, by its directory and by the name that its first start got; both as text, as messages and files hold them."""

    run_dir: str
    name: str


def check_free(storage: Storage, owner: Owner) -> None:
    """Sees to it that `owner` may keep its checkpoints in `storage`. Changes nothing.

    Raises:
        CheckpointError: they are another run's, or there is what this program did not make under the names that it uses.
    """
    text = _read(storage)
    if text is not None:
        _check_claim(storage, owner, text)
        return
    if not storage.is_file_or_absent(LATEST) or (storage.exists(LATEST) and step_of(named_latest(storage)) is None):
        _refuse(storage, f"the {LATEST} in it is not of this program")
    for name in storage.names():
        if step_of(name) is not None and not storage.is_own(name):
            _refuse(storage, f"{name} in it has no {state_file.NAME}, and is not of this program")


def claim(storage: Storage, owner: Owner) -> None:
    """Makes `storage` the place of a run's checkpoints; of several that try at once one gets it. Raises like `check_free`."""
    check_free(storage, owner)
    try:
        _write(storage, owner)
    except OSError as error:
        raise CheckpointError(f"checkpoint.dir = {storage.where()} cannot be written: {reason_of(error)}") from None


def _write(storage: Storage, owner: Owner) -> None:
    content = json.dumps({**asdict(owner), "place": _place(storage)}, indent=1).encode() + b"\n"
    if storage.create(content, NAME):
        return
    text = _read(storage)
    if text is not None:
        _check_claim(storage, owner, text)
    if text != content.decode():
        storage.write(content, NAME)  # moved, copied or damaged since


def _check_claim(storage: Storage, owner: Owner, text: str) -> None:
    try:
        found = json.loads(text)
        theirs, place = Owner(found["run_dir"], found["name"]), found["place"]
    except (ValueError, KeyError, TypeError):
        return
    if place != _place(storage) or theirs.run_dir == owner.run_dir:
        return
    if not os.path.exists(theirs.run_dir) and (theirs.name == owner.name or not storage.steps()):
        return  # the run was moved, or is gone and left nothing
    resume, init_from = (typed_setting(f"train.{key}", storage.where()) for key in ("resume", "init_from"))
    raise CheckpointError(
        f"checkpoint.dir = {storage.where()} belongs to the run at {theirs.run_dir}: give this run another. "
        f"It can begin with what is there by {resume} or {init_from}; where that "
        f"run is given up, and this one shall go on in its place, remove {storage.where(NAME)}"
    )


def _refuse(storage: Storage, reason: str) -> NoReturn:
    raise CheckpointError(f"checkpoint.dir = {storage.where()} cannot be used: {reason}; choose another directory")


def _read(storage: Storage) -> str | None:
    try:
        return storage.read(NAME).decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        if isinstance(error, NotADirectoryError) and "://" not in storage.url:
            place = Path(_place(storage))
            _refuse(storage, f"{next(one for one in (place, *place.parents) if one.exists())} is no directory")
        _refuse(storage, f"{NAME} in it cannot be read ({reason_of(error, getattr(error, 'filename', None))})")


def _place(storage: Storage) -> str:
    return storage.where() if "://" in storage.url else os.path.abspath(storage.url)
