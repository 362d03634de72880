"""Signals that end a run early: noted by a handler, agreed upon by all ranks where they stand at the same point."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Literal, Self, TypeVar

import torch
import torch.distributed as dist

from dist_plm.core.early_signals import hear_early_no_more
from dist_plm.core.errors import EXIT_INTERRUPTED, EXIT_REQUEUE, reason_of
from dist_plm.distributed.collectives import gather, most_of_all
from dist_plm.train.deadline import Deadline
from dist_plm.train.startup.lease import RunLease

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Signals that follow the first within this time are the same one, passed on by a launcher as well, which may be slow where
#: the ranks leave it little of the processor.
SAME_SIGNAL_SECONDS = 5.0
#: Steps longer than this are also left between two microbatches.
LONG_STEP_SECONDS = 5.0
#: Between two looks at whether the run was started again.
LOOK_SECONDS = 2.0


class StopRequestedError(Exception):
    """All ranks have agreed to stop here."""


class StopSignals:
    """While entered, the named signals are noted instead of ending the process; a second one ends it at once.

    Ending at once harms nothing that is complete: checkpoints and records are only ever renamed or appended whole.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._signals = [signal.Signals[name] for name in names]
        self._previous: dict[signal.Signals, Any] = {}
        self._first = 0.0
        self.received: str | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python hears signals there alone
            hear_early_no_more()
            self._previous = {number: signal.signal(number, self._note) for number in self._signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._first = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self._first > SAME_SIGNAL_SECONDS:
            os._exit(128 + number)

    @contextmanager
    def heard_at_once(self) -> Iterator[None]:
        """Ends the process on a signal within the block, where ranks wait for each other outside of Python, which would hear
        it no sooner than they have met. Nothing has begun yet that could be lost."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard, told = os.pipe()
        os.set_blocking(told, False)
        before = signal.set_wakeup_fd(told)
        listener = threading.Thread(target=self._listen, args=(heard,), daemon=True)
        listener.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.write(told, b"\0")
            listener.join()
            os.close(told)
            os.close(heard)

    def _listen(self, heard: int) -> None:
        while number := os.read(heard, 1)[0]:
            if number in self._signals:
                os._exit(EXIT_REQUEUE)
            if number == signal.SIGINT:
                os._exit(EXIT_INTERRUPTED)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Holds what is so on any rank: asked to stop, waiting for data, still writing a checkpoint, having made a bad step.

    Args:
        profiled: of how many steps a profile is asked for.
    """

    stop: bool
    waiting: bool
    saving: bool
    bad: bool
    profiled: int


class Control:
    """Asks all ranks, at points that all of them pass in the same order.

    Args:
        group: all ranks on gloo, used by nothing else from now on.
        lease: raises on every rank once the run was started again elsewhere.
        deadline: of the job.
    """

    def __init__(
        self, signals: StopSignals, group: dist.ProcessGroup, lease: RunLease, deadline: Deadline | None = None
    ) -> None:
        self._signals, self._group, self._lease = signals, group, lease
        self._deadline = deadline or Deadline()
        self._next_look = 0.0
        self._slow = True  # how long the first step takes is not known
        self.steps_are_long = True

    def note_step(self, seconds: float) -> None:
        """Takes note of how long this rank's last step took."""
        self._slow = seconds > LONG_STEP_SECONDS
        self._deadline.note("step", seconds)

    def note(self, what: Literal["save", "evaluation"], seconds: float) -> None:
        """Takes note of how long it took on this rank."""
        self._deadline.note(what, seconds)

    @property
    def reason(self) -> str:
        """Why this rank wants to stop, or does not."""
        if self._signals.received is not None:
            return self._signals.received
        return f"another rank's signal, or its job's end, {self._deadline}"

    def agree(
        self,
        *,
        waiting: bool = False,
        saving: bool = False,
        bad: bool = False,
        profiled: int = 0,
        before: Literal["step", "evaluation"] = "step",
    ) -> Agreement:
        """Tells what any rank has to say. Collective.

        Args:
            before: what comes next, if there is time enough.
        Raises:
            SupersededError: on every rank, where the run was started again since.
        """
        must_stop = self._signals.received is not None or not self._deadline.allows(before)
        mine = [must_stop, waiting, saving, self._slow, self._is_superseded(), bad, profiled]
        flags = torch.tensor(mine, dtype=torch.int32)
        most_of_all(flags, self._group)
        *told, most_profiled = flags.tolist()
        stop, any_waiting, any_saving, slow, superseded, any_bad = map(bool, told)
        if superseded:
            self._lease.refuse()
        self.steps_are_long = slow
        return Agreement(stop, any_waiting, any_saving, any_bad, most_profiled)

    def _is_superseded(self) -> bool:
        """Rank 0 looks, now and then: a file system is asked."""
        if self._group.rank() != 0 or time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + LOOK_SECONDS
        try:
            return not self._lease.holds()
        except OSError as error:
            log.warning("whether the run was started again cannot be told now: %s", reason_of(error))
            return False

    def any_rank(self, says: bool) -> bool:
        """Tells whether any rank says so. Collective."""
        flag = torch.tensor([says], dtype=torch.int32)
        most_of_all(flag, self._group)
        return bool(flag.item())

    def first_told(self, told: T | None) -> T:
        """Gives what the first rank tells that has something to tell. Collective."""
        return next(one for one in gather(self._group, told) if one is not None)

    def of_all(self, told: T) -> list[T]:
        """Gives what each rank tells, by rank. Collective."""
        return gather(self._group, told)

    def numbers_of_all(self, values: Sequence[float]) -> list[list[float]]:
        """Gives the numbers that each rank tells, by rank: equally many each. Collective."""
        own = torch.tensor(values, dtype=torch.float64)
        rows = [torch.empty_like(own) for _ in range(self._group.size())]
        dist.all_gather(rows, own, group=self._group)
        return [row.tolist() for row in rows]

    def check(self, before: Literal["step", "evaluation"] = "step") -> None:
        """Collective.

        Raises:
            StopRequestedError: on every rank, once any of them got a signal, or there is no time for what comes next.
        """
        if self.agree(before=before).stop:
            raise StopRequestedError
