"""Keeps the checkpoints of a run in order: which one is the latest, which go. One rank's work."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.retention import Retention
from dist_plm.checkpoint.storage import BEST, LATEST, Storage, name_of
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.core.errors import CheckpointError, reason_of

log = logging.getLogger(__name__)


class KeptCheckpoints:
    """Holds the complete checkpoints of a run, by step.

    Attributes:
        newest: the step of the one that was completed last; None before the first.
    """

    def __init__(self, storage: Storage, retention: Retention) -> None:
        self._storage, self._retention = storage, retention
        self.newest: int | None = None
        self._evaluations: dict[int, dict[str, float]] | None = None
        self._best: int | None = -1  # not known yet what an earlier start named

    def add(self, train_state: TrainState) -> None:
        """Makes a checkpoint that is complete the latest."""
        self._name_latest(train_state.step)
        if self._evaluations is not None:
            self._evaluations[train_state.step] = dict(train_state.evaluation)
        self._name_best(train_state.step)

    def drop_superseded(self, newest: int) -> None:
        """Removes those that need not stay beside the checkpoint of step `newest` and those before it."""
        if self._evaluations is None:
            self._evaluations = self._read_evaluations()
        if newest not in self._evaluations:  # saving it failed
            return
        for step in self._retention.superseded(self._evaluations, newest):
            self._storage.remove(name_of(step))
            del self._evaluations[step]

    def withdraw(self, step: int, *, latest: int) -> None:
        """Removes one, and makes another the latest."""
        if not self._storage.exists(name_of(latest)):  # saving it failed
            return
        self._name_latest(latest)
        self._name_best(latest)
        self._storage.remove(name_of(step))

    def amend(self, train_state: TrainState) -> bool:
        """Writes anew what a checkpoint that is there holds beside tensors, which stay as they are, and makes it the latest.
        False where none is there, or one of weights alone: a run that began with them holds an optimizer as well."""
        try:
            held = self.read(train_state.step)
        except FileNotFoundError:
            return False
        if held.engine:
            self._rewrite(replace(train_state, files=held.files))
            self.add(train_state)
            log.info("added to %s, whose tensors are the same, what was measured since", name_of(train_state.step))
        return bool(held.engine)

    def rewind(self, step: int, history: Sequence[Mapping[str, Any]]) -> None:
        """Makes an earlier one the latest, with a history that has gone on since; later ones go."""
        self._name_latest(step)
        self._rewrite(replace(self.read(step), history=[dict(entry) for entry in history]))
        self._name_best(step)
        for later in self._storage.steps():
            if later > step:
                self._storage.remove(name_of(later))
        self._evaluations = None

    def read(self, step: int) -> TrainState:
        """Reads what the checkpoint of a step holds beside tensors."""
        path = (name_of(step), state_file.NAME)
        return state_file.decode(self._storage.read(*path), self._storage.where(*path))

    def _rewrite(self, train_state: TrainState) -> None:
        self._storage.write(state_file.encode(train_state), name_of(train_state.step), state_file.NAME)

    def _name_latest(self, step: int) -> None:
        self._storage.write(f"{name_of(step)}\n".encode(), LATEST)
        self.newest = step

    def _name_best(self, newest: int) -> None:
        """Names the best of the checkpoints up to step `newest`, before any that was it is removed. A run that keeps none, or
        has measured none, has none."""
        best = None
        if self._retention.best is not None:
            if self._evaluations is None:
                self._evaluations = self._read_evaluations()
            best = self._retention.best_of(self._evaluations, newest)
        if best == self._best:
            return
        if best is not None:
            self._storage.write(f"{name_of(best)}\n".encode(), BEST)
        elif self._storage.exists(BEST):
            self._storage.remove(BEST)
        self._best = best

    def _read_evaluations(self) -> dict[int, dict[str, float]]:
        """Reads the evaluations of the complete checkpoints that are there; damaged ones do not count, so that a good
        one stays."""
        found: dict[int, dict[str, float]] = {}
        for step in self._storage.steps():
            try:
                train_state = self.read(step)
            except (OSError, CheckpointError) as error:
                log.warning("%s is left as it is and not counted: %s", name_of(step), reason_of(error))
                continue
            if all(self._storage.size(name_of(step), file) == r.bytes for file, r in train_state.files.items()):
                found[step] = dict(train_state.evaluation)
        return found
