"""Measures where the time of a step goes: forward and backward passes, the optimizer, and waiting for other ranks.

A step takes equally long on all ranks, as each waits for the others: which of them is slow shows only once the time that a rank
is held up by collectives and messages is told apart. On CUDA the times are of events on the stream that computes.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.distributed as dist

from dist_plm.distributed.shared_memory.shared_group import SharedGroup

StepPart = Literal["forward", "backward", "communication", "optimizer"]
PARTS: tuple[StepPart, ...] = ("forward", "backward", "communication", "optimizer")

#: Methods of process groups in which a rank may be held up, as far as this version of PyTorch has them.
COLLECTIVES = (
    *("allreduce", "allreduce_coalesced", "allgather", "_allgather_base", "allgather_coalesced", "all_gather_single"),
    *("allgather_into_tensor_coalesced", "reduce_scatter", "_reduce_scatter_base", "reduce_scatter_tensor_coalesced"),
    *("reduce_scatter_single", "alltoall", "alltoall_base", "all_to_all_single", "broadcast", "reduce", "gather"),
    *("scatter", "send", "recv", "recv_anysource", "barrier"),
)
#: A part, or None between steps, and when it began.
_Mark = tuple[StepPart | None, Any]


class StepClock:
    """Adds up the parts of the steps that it is on for. Each moment counts for the innermost part that it lies in."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[_Mark] | None = None
        self._steps: list[list[_Mark]] = []
        self._inside: list[StepPart] = []
        self._others: set[int | None] = set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Is on for one step. Until then, and after it, it costs nothing."""
        marks = self._marks = []
        self._others = _other_threads()
        try:
            with _counted(self.part), self.part("backward"):
                yield
            self._steps.append(marks)
        finally:
            self._marks = None

    @contextmanager
    def part(self, name: StepPart) -> Iterator[None]:
        """Counts what the block takes for a part of the step."""
        if self._marks is None or threading.get_ident() in self._others:
            yield
            return
        self._inside.append(name)
        self._mark(name)
        try:
            yield
        finally:
            self._inside.pop()
            self._mark(self._inside[-1] if self._inside else None)

    def take(self) -> list[dict[StepPart, float]]:
        """Gives the seconds of each part of the steps since it was asked last. On CUDA it waits for the device."""
        steps, self._steps = self._steps, []
        if self._device.type == "cuda" and steps:
            torch.cuda.synchronize(self._device)
        return [_seconds(marks) for marks in steps]

    def _mark(self, name: StepPart | None) -> None:
        assert self._marks is not None
        if self._device.type != "cuda":
            self._marks.append((name, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((name, event))


def _other_threads() -> set[int | None]:
    """Threads that do other work meanwhile, as those that save do. Autograd's are part of the step: Python does not know them,
    or calls them dummies."""
    mine = threading.current_thread()
    return {one.ident for one in threading.enumerate() if one is not mine and not one.name.startswith("Dummy-")}


def _seconds(marks: list[_Mark]) -> dict[StepPart, float]:
    seconds = dict.fromkeys(PARTS, 0.0)
    for (name, began), (_, ended) in pairwise(marks):
        if name is not None:
            seconds[name] += ended - began if isinstance(began, float) else began.elapsed_time(ended) / 1000
    return seconds


@contextmanager
def _counted(part: Callable[[StepPart], Any]) -> Iterator[None]:
    """Counts collectives, and waiting for their end, for communication, whoever begins them.

    They are replaced on PyTorch's classes, as the libraries call them there in many ways, and put back at the end of the block.
    """
    groups: list[tuple[Any, tuple[str, ...]]] = [(kind, COLLECTIVES) for kind in (dist.ProcessGroup, SharedGroup)]
    owners = [*groups, (dist.Work, ("wait",))]
    replaced = [(owner, name, vars(owner)[name]) for owner, names in owners for name in names if name in vars(owner)]
    for owner, name, _ in replaced:
        setattr(owner, name, _within(part, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, original in replaced:
            setattr(owner, name, original)


def _within(part: Callable[[StepPart], Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any, **options: Any) -> Any:
        with part("communication"):
            return original(*arguments, **options)

    return counted
