"""Saves the checkpoints of a run: a copy in host memory, which a process writes while training goes on.

A thread of each rank agrees with those of the others on what is written where, and waits for the rank's writer process
(`io.async_writer`), which does what takes long. That leaves 0.07 s of processor time a GB to the rank, measured on 0.3 GB; a
thread that wrote took 0.23 s.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import save

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.finite import not_finite, told
from dist_plm.checkpoint.fragments import Fragment, HostCopies, ReplicaRank
from dist_plm.checkpoint.io.async_writer import WriterProcess
from dist_plm.checkpoint.io.direct_io import write_file
from dist_plm.checkpoint.io.hashing import HashedFiles
from dist_plm.checkpoint.kept import KeptCheckpoints
from dist_plm.checkpoint.open_checkpoint import open_checkpoint
from dist_plm.checkpoint.planner import FragmentSavePlanner, describe_failure
from dist_plm.checkpoint.retention import Retention
from dist_plm.checkpoint.storage import Storage, name_of
from dist_plm.checkpoint.train_state import FileRecord, TrainState
from dist_plm.core.errors import CheckpointError, Diverged, SaveFailedError
from dist_plm.distributed.collectives import gather, on_each, on_first
from dist_plm.models.sharding import ShardSpec

log = logging.getLogger(__name__)

#: A save is slow that takes longer than this, and so many times longer than the one before.
SLOW_SECONDS = 60.0
SLOW_FACTOR = 3.0
#: Stands for the step of the newest checkpoint saved.
NEWEST = -1


class NotFiniteError(CheckpointError):
    """Weights or moments to be saved are not finite."""


class CheckpointWriter:
    """Writes the checkpoints of one run; every rank has one.

    Args:
        group: all ranks on gloo, used by nothing else: its collectives run in the writing thread.
        background: whether `save` returns once the copy is made.
        on_failure: whether a save that fails ends the run; the last one of a run always does.
        attachments: text files that every checkpoint holds.

    Attributes:
        last_seconds: what writing the last one took.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        group: dist.ProcessGroup,
        place: ReplicaRank,
        retention: Retention,
        background: bool,
        on_failure: Literal["continue", "stop"],
        attachments: Mapping[str, str] | None = None,
    ) -> None:
        self._storage, self._group, self._place = storage, group, place
        self._kept = KeptCheckpoints(storage, retention)
        self._background, self._on_failure = background, on_failure
        self._attachments = {name: text.encode() for name, text in (attachments or {}).items()}
        self._copies = HostCopies()
        self._process = WriterProcess(self._copies.memory.fd)
        self._thread: threading.Thread | None = None
        self._error: str | None = None
        self._diverged = False
        self._step = -1
        self._began, self._told = 0.0, False
        self.last_seconds = 0.0

    @property
    def where(self) -> str:
        """The checkpoints' directory or URL."""
        return self._storage.where()

    def save(
        self,
        states: Iterable[tuple[ShardSpec, dict[str, Tensor]]],
        train_state: TrainState,
        *,
        proven: int | None = NEWEST,
    ) -> None:
        """Copies `states` and has them written as the checkpoint of train_state.step. Waits for an earlier save that is
        still being written: one is in flight at most. Collective.

        Args:
            proven: the step of the newest checkpoint known to be good: those that it supersedes go. None: none goes.
        """
        if self._thread is not None and self.is_saving:
            started = time.monotonic()
            log.warning("%s is still being written when the next save is due: waiting for it", name_of(self._step))
            self._thread.join()
            log.warning("training waited %.1f s for it", time.monotonic() - started)
        self.report()
        self._step = train_state.step
        fragments = self._copy(states)
        if fragments is None:
            return
        if not self._background:
            self._run(fragments, train_state, proven)
            return
        self._began, self._told = time.monotonic(), False
        # A daemon, so that a run that fails elsewhere does not hang on it.
        self._thread = threading.Thread(
            target=self._run, args=(fragments, train_state, proven), name="checkpoint", daemon=True
        )
        self._thread.start()

    def amend(self, train_state: TrainState) -> bool:
        """Rewrites what a checkpoint holds beside tensors; False where it is to be saved, see `KeptCheckpoints`. Collective."""
        self._step = train_state.step
        try:
            return on_first(self._group, lambda: self._kept.amend(train_state))
        except CheckpointError as error:
            self._error = error.reason
            return True

    def _copy(self, states: Iterable[tuple[ShardSpec, dict[str, Tensor]]]) -> list[Fragment] | None:
        """None where a rank has no memory for it, which is a save that failed. Collective."""
        fragments, problem = None, None
        try:
            fragments = self._copies.take(states, self._place)
        except (OSError, MemoryError) as error:
            problem = f"rank {self._group.rank()}: no memory for the copy that is written: {describe_failure(error)}"
        if problems := [one for one in gather(self._group, problem) if one is not None]:
            self._error = "; ".join(problems)
        return None if problems else fragments

    @property
    def is_saving(self) -> bool:
        """Whether a save is in flight."""
        return self._thread is not None and self._thread.is_alive()

    def watch(self) -> None:
        """Says once of the save in flight that it takes much longer than the one before."""
        seconds = time.monotonic() - self._began
        if self.is_saving and not self._told and seconds > max(SLOW_SECONDS, SLOW_FACTOR * self.last_seconds):
            self._told = True
            log.warning(
                "%s has been in writing for %.0f s, the one before took %.1f s: training goes on until the next is due",
                name_of(self._step),
                seconds,
                self.last_seconds,
            )

    def report(self) -> None:
        """Takes note of a save that has ended.

        Raises:
            SaveFailedError: it failed and on_failure is "stop".
            Diverged: there are numbers that are not finite, so that no later save can succeed.
        """
        if not self.is_saving and self._error is not None:
            error, self._error = self._error, None
            message = f"saving {self._storage.where(name_of(self._step))} failed: {error}"
            if self._diverged:
                raise Diverged(message)
            if self._on_failure == "stop":
                raise SaveFailedError(message)
            log.error("%s; training goes on, earlier checkpoints are as they were", message)

    def wait(self, *, proven: int | None = NEWEST) -> None:
        """Waits for the save in flight, the last one of the run, and ends the writer process. Collective.

        Args:
            proven: as in `save`.
        Raises:
            SaveFailedError: it failed, so the run's end is not saved.
            Diverged: as in `report`.
        """
        if self._thread is not None:
            self._thread.join()
        self._process.close()
        if self._error is not None:
            kind = Diverged if self._diverged else SaveFailedError
            raise kind(f"saving {self._storage.where(name_of(self._step))} failed: {self._error}")
        on_first(self._group, lambda: self._drop_superseded(proven))

    def settle(self) -> None:
        """Waits for the save in flight, if there is one, and takes note of it as `report` does. Collective."""
        if self._thread is not None:
            self._thread.join()
        if not self._diverged:
            self.report()
        self._error, self._diverged = None, False

    def steps(self, is_own: Callable[[int], bool]) -> list[int]:
        """Lists the steps of the checkpoints that are there, and of this run as it is, ascending. Collective."""
        return on_first(self._group, lambda: [step for step in self._storage.steps() if is_own(step)])

    def is_whole(self, step: int, *, verify: bool) -> bool:
        """Tells whether the checkpoint of a step can be used; see `open_checkpoint`. What is wrong is told. Collective, after
        `settle`."""
        try:
            open_checkpoint(self._storage, name_of(step), self._group, verify=verify)
        except CheckpointError as error:
            log.warning("%s; it is not gone back to", error.reason)
            return False
        return True

    def samples_at(self, step: int) -> int:
        """Tells how many samples were seen at the checkpoint of a step. Collective."""
        return on_first(self._group, lambda: self._kept.read(step).samples_seen)

    def rewind(self, step: int, history: Sequence[Mapping[str, Any]]) -> None:
        """Makes an earlier checkpoint the latest; see KeptCheckpoints.rewind. Collective, after `settle`.

        Raises:
            SaveFailedError: on every rank, where the disk does not take that.
        """
        try:
            on_first(self._group, lambda: self._kept.rewind(step, history))
        except CheckpointError as error:
            raise SaveFailedError(
                f"{self._storage.where(name_of(step))} cannot be made the latest, to go back to it: {error.reason}; mend that, "
                "and start the run again"
            ) from None

    def withdraw(self, step: int, *, latest: int) -> None:
        """Removes the checkpoint that was written last, and makes another the latest. Collective, after `wait`."""
        on_first(self._group, lambda: self._kept.withdraw(step, latest=latest))

    def _run(self, fragments: list[Fragment], train_state: TrainState, proven: int | None) -> None:
        started = time.monotonic()
        try:
            on_first(self._group, lambda: self._drop_superseded(proven))
            num_bytes = self._write(fragments, train_state)
        # DCP raises a BaseException that holds what each rank ran into.
        except (Exception, CheckpointException) as error:
            self._error, self._diverged = describe_failure(error), isinstance(error, NotFiniteError)
            return
        seconds = self.last_seconds = time.monotonic() - started
        if self._group.rank() == 0:
            log.info(
                "saved %s, %.1f MB in %.1f s", self._storage.where(name_of(train_state.step)), num_bytes / 1e6, seconds
            )

    def _write(self, fragments: list[Fragment], train_state: TrainState) -> int:
        """Returns the bytes of the whole checkpoint on the first rank."""
        name = name_of(train_state.step)
        broken = [one for some in gather(self._group, not_finite(fragments)) for one in some]
        if broken:
            raise NotFiniteError(f"{told(broken)} hold numbers that are not finite, which are never saved")
        directory = on_first(self._group, lambda: self._storage.begin(name))
        try:
            writer = on_each(self._group, lambda: self._storage.writer(directory))
            files = HashedFiles(writer.fs)
            writer.fs = files  # pyright: ignore[reportAttributeAccessIssue]
            writer.put = partial(self._put, files.records)
            save({}, storage_writer=writer, planner=FragmentSavePlanner(fragments), process_group=self._group)
            records = gather(self._group, files.records)
            merged = {file: record for one in records for file, record in one.items()}
            on_first(self._group, lambda: self._complete(directory, replace(train_state, files=merged)))
        except (Exception, CheckpointException):
            if self._group.rank() == 0:
                self._storage.remove(directory)
            raise
        return sum(record.bytes for record in merged.values())

    def _put(self, records: dict[str, FileRecord], target: str, parts: Sequence[bytes | Tensor]) -> None:
        """Writes a file of tensors (blobs.Put)."""
        if self._background and not self._storage.is_of_this_process:
            offset_of = self._copies.memory.offset_of
            orders = [part if isinstance(part, bytes) else (offset_of(part), part.nbytes) for part in parts]
            record = self._process.write(target, orders)
        else:
            blocks = (part if isinstance(part, bytes) else part.view(-1).numpy().data for part in parts)
            record = FileRecord(*write_file(target, blocks))
        records[os.path.basename(target)] = record

    def _complete(self, directory: str, train_state: TrainState) -> None:
        name, files = name_of(train_state.step), dict(train_state.files)
        for file, data in self._attachments.items():
            self._storage.write(data, directory, file)
            files[file] = FileRecord(len(data), state_file.checksum(data))
        self._storage.write(state_file.encode(replace(train_state, files=files)), directory, state_file.NAME)
        self._storage.commit(name)
        self._kept.add(train_state)

    def _drop_superseded(self, proven: int | None) -> None:
        newest = self._kept.newest if proven == NEWEST else proven
        if newest is not None:
            self._kept.drop_superseded(newest)
