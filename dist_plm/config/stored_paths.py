"""Finds again what a run was given by paths, for whoever opens it from another directory, or after it was moved.

run.yaml, and its copy in each checkpoint, hold paths as they were given: relative ones were seen from the directory in which
the run was started. What reads them later looks there: first where that directory lies now, seen from the run, as whole trees
are moved; then where it was; and last in its own working directory. What is in the run's directory is looked for in that.
"""

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dist_plm.config.credentials import followed
from dist_plm.config.runfile import STARTED_IN

#: Settings of runs that name files and directories.
PATHS = (
    "run.root",
    "run.dir",
    "data.path",
    "data.blend.path",
    "data.train",
    "data.validation",
    "data.test",
    "data.tokenizer",
    "model.init_from",
    "train.init_from",
    "train.resume",
    "checkpoint.dir",
    "track.mlflow_uri",
    "evaluate.tasks.data.path",
    "evaluate.tasks.data.text",
    "evaluate.tasks.data.rows",
    "evaluate.tasks.data.train_rows",
)
#: Values of them that are words.
_WORDS = ("auto", "none")


def located(
    settings: Mapping[str, Any], *, run_dir: str | Path | None = None, checkpoints: str | Path | None = None
) -> dict[str, Any]:
    """Returns the settings of a run.yaml with paths that lead to the same from here; those that lead nowhere stay.

    Args:
        run_dir: where the run lies now, where that is known.
        checkpoints: where its checkpoints lie now, likewise; it is enough to know one of them.
    """
    found = {name: value for name, value in settings.items() if name != STARTED_IN}
    places = _Places.of(settings, run_dir, checkpoints)
    for key in PATHS:
        found = _with_path(found, key.split("."), places)
    return found


@dataclass(frozen=True, slots=True)
class _Places:
    """Holds where paths are looked for.

    Args:
        bases: where the directory in which the run was started may lie.
        told: the run's directory, as it was given; None where that is not known.
        run_dir: the same, where it lies now; likewise.
    """

    bases: tuple[str, ...]
    told: str | None
    run_dir: str | None

    @classmethod
    def of(cls, settings: Mapping[str, Any], run_dir: str | Path | None, checkpoints: str | Path | None) -> Self:
        started = settings.get(STARTED_IN)
        started = started if isinstance(started, str) and os.path.isabs(started) else None
        told, kept = _directory(settings, "run"), _directory(settings, "checkpoint")
        if run_dir is None and checkpoints is not None and kept is None:
            run_dir = os.path.dirname(os.path.normpath(checkpoints)) or "."
        was, now = (told, run_dir) if run_dir is not None else (kept, checkpoints)
        moved = None if now is None or was is None or "://" in was else _moved(started, was, now)
        bases = tuple(base for base in (moved, started) if base is not None)
        return cls(bases, told, None if run_dir is None else os.fspath(run_dir))

    def find(self, path: str) -> str:
        """Gives a path as it is, where it is absolute, of the working directory or nowhere; else the first place at which
        there is something."""
        here = os.path.normpath(followed(path))
        if self.run_dir is not None and self.told is not None and f"{here}{os.sep}".startswith(f"{self.told}{os.sep}"):
            own = os.path.normpath(os.path.join(self.run_dir, os.path.relpath(here, self.told)))
            if os.path.exists(own):
                return own
        if not os.path.isabs(here):
            for base in self.bases:
                if _is_at(base, here):
                    return path if base == os.getcwd() else os.path.join(base, path)
        return path


def _directory(settings: Mapping[str, Any], section: str) -> str | None:
    content = settings.get(section)
    directory = content.get("dir") if isinstance(content, Mapping) else None
    return os.path.normpath(followed(directory)) if isinstance(directory, str) and directory else None


def _moved(started: str | None, was: str, now: str | Path) -> str | None:
    """Tells where the directory in which a run was started lies, as something of the run was at `was` and is at `now`."""
    if started is None and os.path.isabs(was):
        return None
    base = started or os.sep  # what is relative to any directory is as far from all
    return os.path.normpath(os.path.join(os.path.abspath(now), os.path.relpath(base, os.path.join(base, was))))


def _is_at(base: str, path: str) -> bool:
    """Whether there is a file or directory, a pair .bin and .idx, or what a pattern matches."""
    whole = os.path.join(base, path)
    return (
        os.path.exists(whole)
        or os.path.exists(f"{whole}.idx")
        or next(glob.iglob(path, root_dir=base), None) is not None
    )


def _with_path(value: Any, key: Sequence[str], places: _Places) -> Any:
    """Returns settings in which the path at a dotted key, of each item of a list, is where it is now."""
    if isinstance(value, list):
        return [_with_path(item, key, places) for item in value]
    if not key:
        is_path = isinstance(value, str) and value and value not in _WORDS and "://" not in value
        return places.find(value) if is_path else value
    if not isinstance(value, Mapping) or key[0] not in value:
        return value
    return {**value, key[0]: _with_path(value[key[0]], key[1:], places)}
