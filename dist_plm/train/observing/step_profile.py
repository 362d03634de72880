"""Traces what chosen ranks do in some steps: those of train.profile.steps, and those that a running run is asked for."""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from dist_plm.core.errors import described
from dist_plm.core.files import atomic_writer
from dist_plm.distributed.device import Device
from dist_plm.monitor.report_page.run_tables import PROFILES, operations_file
from dist_plm.spec.schema_run import ProfileConfig

log = logging.getLogger(__name__)

#: In a run's directory: asks for a profile of the next steps, as many as it says, or one.
REQUEST = "profile_request"
MOST_STEPS = 100
#: Between two looks for it.
LOOK_SECONDS = 2.0
#: In the table of the longest operations.
_MOST_OPERATIONS = 30
#: Of allocations that a snapshot of a GPU's memory tells.
_MOST_ALLOCATIONS = 100_000


class StepProfile:
    """Profiles stretches of steps on this rank, where it is one of those chosen. No run fails for a profile."""

    def __init__(self, settings: ProfileConfig, run_dir: Path, rank: int, device: Device) -> None:
        self._run_dir, self._rank, self._device = run_dir, rank, device
        self._is_chosen = rank in settings.ranks
        self._stacks = settings.stacks
        self._last = 0
        self._stretches: list[tuple[int, int]] = [(settings.steps[0], settings.steps[1])] if settings.steps else []
        self._profiler: Any = None
        self._first, self._next_look = 0, 0.0

    def take_request(self) -> int:
        """Takes the request that lies in the run's directory away; gives the number of steps, 0 where there is none. Rank 0
        looks, now and then: a file system is asked."""
        if self._rank != 0 or time.monotonic() < self._next_look:
            return 0
        self._next_look = time.monotonic() + LOOK_SECONDS
        path = self._run_dir / REQUEST
        try:
            if not path.exists():
                return 0
            said = path.read_text(encoding="utf-8", errors="replace").strip()[:10]
            path.unlink()
        except OSError as error:
            log.warning("whether a profile is asked for cannot be told: %s", described(error))
            return 0
        return min(max(int(said), 1), MOST_STEPS) if said.isdecimal() else 1

    def ask(self, step: int, count: int) -> None:
        """Has the next steps profiled, from `step` on, once no others are."""
        if self._profiler is None:
            self._stretches.append((step, step + count - 1))

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Is entered while a step is made."""
        if self._is_chosen and any(first <= step <= last for first, last in self._stretches):
            self._start(step)
        try:
            yield
        except BaseException:
            self._profiler = None  # the step ended in its middle
            raise
        if self._profiler is not None and not self._goes_on(step):
            self._finish(step)

    def close(self) -> None:
        """Writes what was profiled of a stretch that the run ends in."""
        if self._profiler is not None:
            self._finish(self._last)

    def _goes_on(self, step: int) -> bool:
        """Whether a stretch that has begun lasts for longer, also where the run went back within it."""
        begun = max(step, self._first)
        return any(first <= begun and step < last for first, last in self._stretches)

    def _start(self, step: int) -> None:
        self._last = step
        if self._profiler is not None:
            return
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device.kind == "cuda" else [])]
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it says on the console that it begins and ends
        try:
            if self._device.kind == "cuda":
                torch.cuda.memory._record_memory_history(max_entries=_MOST_ALLOCATIONS)
            profiler = profile(activities=kinds, with_stack=self._stacks)
            profiler.start()
        except Exception as error:
            self._drop_begun(step)
            self._give_up(error)
            return
        self._profiler, self._first = profiler, step

    def _finish(self, last: int) -> None:
        profiler, self._profiler = self._profiler, None
        self._drop_begun(last)
        folder, name = self._run_dir / PROFILES, f"step_{self._first:08d}_rank_{self._rank:05d}"
        try:
            profiler.stop()
            folder.mkdir(exist_ok=True)
            profiler.export_chrome_trace(str(folder / f"{name}.json.gz"))
            if self._device.kind == "cuda":
                torch.cuda.memory._dump_snapshot(str(folder / f"{name}_memory.pickle"))
                torch.cuda.memory._record_memory_history(enabled=None)
            found = {
                "first": self._first,
                "last": last,
                "rank": self._rank,
                "operations": longest(profiler.key_averages()),
            }
            with atomic_writer(folder / operations_file(self._rank)) as file:
                file.write(json.dumps(found).encode() + b"\n")
        except Exception as error:
            self._give_up(error)
            return
        log.info("profiled steps %d to %d: %s", self._first, last, folder / f"{name}.json.gz")

    def _drop_begun(self, step: int) -> None:
        """Forgets stretches that have begun by a step: a run that goes back profiles none again."""
        self._stretches = [one for one in self._stretches if one[0] > step]

    def _give_up(self, error: Exception) -> None:
        log.warning("no profile is made: %s", described(error))


def longest(averages: Any) -> list[dict[str, Any]]:
    """Lists the operations that took longest themselves, without those that they called, in ms: on the device where there is
    one, else on the host.

    Of what the host names (optimizers and compiled graphs do) a GPU's profile has spans too, gaps and kernels of others within;
    they are left out. On the host such a name has a time of its own: what no operation in it took."""
    rows = [
        {
            "name": one.key,
            "calls": one.count,
            "host_ms": round(one.self_cpu_time_total / 1000, 3),
            "device_ms": round(one.self_device_time_total / 1000, 3),
        }
        for one in averages
        if one.device_type.name == "CPU" or not one.is_user_annotation
    ]
    by_device = any(row["device_ms"] for row in rows)
    return sorted(rows, key=lambda row: row["device_ms" if by_device else "host_ms"], reverse=True)[:_MOST_OPERATIONS]
