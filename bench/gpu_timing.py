"""How bench/gpu.py times work on a device, and what it writes down of it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

#: What the profiler calls a launch.
LAUNCHES = {"cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx"}


class Notes:
    """Lines of JSON, each written as soon as it is known: what comes later may end the process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, table: str, name: str, **values: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"table": table, "name": name, **values}) + "\n")

    def attempt(self, table: str, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Adds what is measured, or why it could not be: what follows is measured all the same."""
        began = time.perf_counter()
        try:
            values = measure()
        except Exception as error:  # of whatever library: the others have their turn
            values = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        self.add(table, name, **values, took_seconds=round(time.perf_counter() - began, 1))


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], device: torch.device, *, warm: int, budget: float, least: int = 3) -> float:
    """The median of the seconds of a call, in five rows of calls in which the host waits for the device but at the end."""
    for _ in range(warm):
        work()
    finish(device)
    began = time.perf_counter()
    work()
    finish(device)
    once = time.perf_counter() - began
    calls = max(1, min(1000, round(budget / 5 / max(once, 1e-6)))) if budget > once * least else 1
    rows = []
    for _ in range(5 if budget > once * least else least):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        finish(device)
        rows.append((time.perf_counter() - began) / calls)
    return sorted(rows)[len(rows) // 2]


def peak_gib(work: Callable[[], Any], device: torch.device) -> float | None:
    """The most that tensors hold at once while it runs; None where there is no allocator that tells."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return round(torch.cuda.max_memory_allocated() / 2**30, 3)


def profiled(work: Callable[[], Any], device: torch.device) -> Any:
    """The profile of one call."""
    activity = torch.profiler.ProfilerActivity
    kinds = [activity.CPU, activity.CUDA] if device.type == "cuda" else [activity.CPU]
    with torch.profiler.profile(activities=kinds) as profile:
        work()
        finish(device)
    return profile


def kernels_of(profile: Any) -> list[tuple[str, float, float]]:
    """Name, begin and length in microseconds of everything that the device did, in the order of beginnings.

    Of what the host names (optimizers and compiled graphs do) the profile has spans on the device too, gaps and all."""
    found = [
        (event.name, event.time_range.start, event.time_range.end - event.time_range.start)
        for event in profile.events() or ()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    return sorted(found, key=lambda kernel: kernel[1])


def load_of(work: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Kernels that one call launches, and the share of its time in which the device has something to do."""
    if device.type != "cuda":
        return {}
    profile = profiled(work, device)
    kernels = kernels_of(profile)
    if not kernels:
        return {"kernels": None, "busy": None}
    first, last = kernels[0][1], max(begin + length for _, begin, length in kernels)
    launched = sum(event.name in LAUNCHES for event in profile.events() or ())
    return {"kernels": launched, "busy": round(union(kernels) / max(last - first, 1e-9), 3)}


def device_ms(work: Callable[[], Any], device: torch.device) -> float | None:
    """How long the device computes in one call; on a slow host that is less than the call takes."""
    if device.type != "cuda":
        return None
    return union(kernels_of(profiled(work, device))) / 1e3


def union(kernels: list[tuple[str, float, float]]) -> float:
    """Microseconds in which at least one of the kernels runs."""
    total, end = 0.0, float("-inf")
    for _, begin, length in kernels:
        total += max(0.0, begin + length - max(begin, end))
        end = max(end, begin + length)
    return total
