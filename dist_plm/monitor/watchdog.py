"""Ends a run that makes no progress, once every rank has said where it stands: a hang would otherwise cost its nodes.

Threads of its own see it, so it works while the main thread is blocked in a collective; and it asks nobody, so it works
when another rank is stopped, dead or cut off.
"""

import faulthandler
import logging
import math
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from dist_plm.core.errors import EXIT_HUNG, reason_of
from dist_plm.core.files import open_to_append
from dist_plm.monitor import heartbeat
from dist_plm.monitor.flight_recorder import flight_record, last_collective, write_flight_record
from dist_plm.monitor.heartbeat import Sighting
from dist_plm.monitor.logs import log_file
from dist_plm.monitor.progress import say

log = logging.getLogger(__name__)

#: Steps that the typical time is the median of.
TYPICAL_STEPS = 32
#: After the verdict and the time for reports, for a file system that does not answer.
FORCED_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HangLimits:
    """When a rank without progress is said to hang.

    Args:
        factor: of a typical step's time; 0 turns the watchdog off.
        least_seconds: whatever steps take.
        patient_seconds: at least, while the run starts, evaluates or waits for a checkpoint.
        most_seconds: whatever steps take.
    """

    factor: float
    least_seconds: float
    patient_seconds: float
    most_seconds: float = math.inf

    @property
    def report_seconds(self) -> float:
        """After the verdict, for all ranks to report."""
        return min(10.0, max(2.0, self.least_seconds / 2))

    def seconds(self, typical: float, *, patient: bool) -> float:
        wanted = max(self.least_seconds, self.factor * typical, self.patient_seconds if patient else 0.0)
        return min(wanted, self.most_seconds)


class Watchdog:
    """Watches this rank while entered. Every rank has one.

    Args:
        start: number of this start of the run, by which reports of earlier ones are told apart.

    Attributes:
        doing: where this rank is, as in "in step 3".
        at_hang: done when the hang has been reported, in a thread of its own, while the main thread still hangs.
    """

    def __init__(self, limits: HangLimits, run_dir: Path, *, rank: int, world_size: int, node: str, start: int) -> None:
        self._limits, self._run_dir = limits, run_dir
        self._rank, self._world_size, self._node, self._start = rank, world_size, node, start
        self.doing, self._patient, self._idle = "starting", True, 0.0
        self.at_hang: Callable[[], None] = lambda: None
        self._steps: deque[float] = deque(maxlen=TYPICAL_STEPS)
        self._ended, self._speaking, self._hung = threading.Event(), threading.Lock(), False

    def __enter__(self) -> Self:
        if self._limits.factor > 0:
            if self._rank == 0:
                heartbeat.forget(self._run_dir, before=self._start)
            for work in (self._watch, self._tell_where):
                threading.Thread(target=work, name=f"watchdog{work.__name__}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()

    def progress(self, doing: str, *, patient: bool = False) -> None:
        """Notes that this rank has come to something new.

        Args:
            patient: it may take long, whatever steps take.
        """
        self.doing, self._patient, self._idle = doing, patient, 0.0

    def note_step(self, seconds: float) -> None:
        """A step is complete, and took so long with its wait for data."""
        self._steps.append(seconds)

    @property
    def limit_seconds(self) -> float:
        """Without progress, from now on."""
        typical = statistics.median(self._steps.copy()) if self._steps else 0.0
        return self._limits.seconds(typical, patient=self._patient or not self._steps)

    def _watch(self) -> None:
        tick = min(5.0, self._limits.least_seconds / 20)
        before = time.monotonic()
        while not self._ended.wait(tick):
            now = time.monotonic()
            # A process that was itself stopped for a while, alone or with its machine, has not been idle.
            self._idle += min(now - before, 2 * tick)
            before = now
            if self._idle > self.limit_seconds:
                self._give_up(self.limit_seconds)

    def _tell_where(self) -> None:
        """Says where this rank is, so that others find it when it can no longer speak."""
        every = min(30.0, max(0.2, self._limits.least_seconds / 5))
        told = ""
        while True:
            try:
                with self._speaking:
                    if not self._hung:
                        heartbeat.write(self._run_dir, self._sighting())
            except OSError as error:
                if told != reason_of(error):
                    told = reason_of(error)
                    log.warning("where this rank is cannot be written down: %s", told)
            if self._ended.wait(every):
                return

    def _give_up(self, limit: float) -> None:
        """Does not return. What blocks here, on a file system that hangs too, does not keep the process alive."""
        forced = threading.Timer(self._limits.report_seconds + FORCED_SECONDS, os._exit, (EXIT_HUNG,))
        forced.daemon = True
        forced.start()
        self._hung = True
        try:
            self._report(limit)
            self.at_hang()
        except Exception:
            log.exception("the hang could not be reported whole")
        finally:
            os._exit(EXIT_HUNG)

    def _report(self, limit: float) -> None:
        record = flight_record()
        mine = self._sighting(collective=last_collective(record))
        log.error(
            "no progress for %.0f s (limit %.0f s), %s, last in %s; the Python stacks follow",
            mine.idle_seconds, limit, mine.doing, mine.collective or "no collective",
        )  # fmt: skip
        path = log_file(self._run_dir, self._rank)
        with open_to_append(path) as file:
            faulthandler.dump_traceback(file, all_threads=True)
        with self._speaking:
            heartbeat.write(self._run_dir, mine)
        if record is not None:
            write_flight_record(record, path.with_suffix(".flight.json"))
        if not self._speak(limit):
            # Its launcher ends this rank with the one that speaks; ending before would disturb it.
            time.sleep(self._limits.report_seconds)

    def _speak(self, limit: float) -> bool:
        """Sums up what all have said, once all have or the time for it is over; False where a lower rank does it."""
        deadline = time.monotonic() + self._limits.report_seconds
        while time.monotonic() < deadline:
            seen = heartbeat.read(self._run_dir, range(self._world_size if self._rank == 0 else 1), self._start)
            if len(seen) == self._world_size and all(sighting.hung for sighting in seen.values()):
                break
            if self._rank != 0 and 0 in seen and seen[0].hung:
                return False
            time.sleep(self._limits.report_seconds / 20)
        if any(self._has_given_up(rank) for rank in range(self._rank)):
            return False
        seen = heartbeat.read(self._run_dir, range(self._world_size), self._start)
        text = heartbeat.summary(seen, self._world_size, limit)
        log.error("hang: %s", text)
        if self._rank != 0:
            say(f"error: hang: {text}")
        return True

    def _has_given_up(self, rank: int) -> bool:
        seen = heartbeat.read(self._run_dir, [rank], self._start)
        return rank in seen and seen[rank].hung

    def _sighting(self, collective: str | None = None) -> Sighting:
        return Sighting(
            rank=self._rank,
            node=self._node,
            pid=os.getpid(),
            start=self._start,
            time=time.time(),
            doing=self.doing,
            hung=self._hung,
            idle_seconds=self._idle,
            collective=collective,
        )
