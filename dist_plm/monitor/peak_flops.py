"""The most a device can compute, against which utilisation is reported: looked up for known GPUs, measured on CPU.

An unknown device has no peak: better no utilisation than an invented one.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dist_plm.core.errors import reason_of
from dist_plm.distributed import machine_cache
from dist_plm.distributed.cpu_products import by_fp32, by_onednn, has_onednn
from dist_plm.spec.gpus import peaks_of

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16", "fp8"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device_peak_tflops(
    device: torch.device, precision: Precision, *, override: float | None = None, cache_dir: Path | None = None
) -> float | None:
    """Peak of one device, or of this process's threads on CPU, in 10^12 FLOP/s; None if nobody knows, and for
    fp8: attention and head are computed in bf16, so that no one peak is theirs.

    On CPU the first call for a chip, thread count, precision and torch version takes about a second of matrix products,
    later ones read the result from a cache. The rank that calls it should have its cores to itself meanwhile.

    Args:
        override: taken as it is (`cluster.peak_tflops`).
        cache_dir: where measurements are kept; None takes the user's cache directory ($XDG_CACHE_HOME or ~/.cache).
    """
    if override is not None:
        return override
    if precision == "fp8":
        return None
    if device.type == "cuda":
        tf32 = torch.get_float32_matmul_precision() != "highest"
        return gpu_peak_tflops(torch.cuda.get_device_name(device), precision, tf32=tf32)
    if device.type == "cpu":
        return _cached_cpu_peak(precision, cache_dir or machine_cache.user_cache_dir())
    return None


def gpu_peak_tflops(name: str, precision: Literal["fp32", "bf16", "fp16"], *, tf32: bool) -> float | None:
    """Dense peak of a GPU by the name CUDA gives it, in 10^12 FLOP/s, or None if it is not in the table.

    Args:
        tf32: whether fp32 matrix products may run on the TF32 tensor cores.
    """
    peaks = peaks_of(name)
    if peaks is None or " MIG " in name:  # a MIG device is a slice of the chip it is named after
        return None
    return peaks.of(precision, tf32=tf32)


@dataclass(frozen=True, slots=True)
class CpuPeak:
    """`settled`: the threads ran undisturbed, so measuring again would tell nothing new."""

    tflops: float
    settled: bool


def measure_cpu_peak(precision: Precision, *, budget_seconds: float = 1.0) -> CpuPeak:
    """The best rate of square matrix products on this process's threads, over the kernels torch offers.

    For fp32 these are torch's default and oneDNN, because the default (MKL) runs at half speed on some vendors' chips; for 16
    bits the default and fp32, because chips that do not multiply them themselves are many times as fast in it.
    Draws from its own generator: a run's random numbers do not depend on whether the peak was cached.
    """
    kernels: list[Callable[[Tensor, Tensor], Tensor]] = [torch.mm]
    if precision != "fp32":
        kernels.append(by_fp32)
    elif has_onednn():
        kernels.append(by_onednn)
    with torch.no_grad():
        peaks = [_best_rate(kernel, _DTYPES[precision], budget_seconds / len(kernels)) for kernel in kernels]
    return max(peaks, key=lambda peak: peak.tflops)


def _best_rate(kernel: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, budget_seconds: float) -> CpuPeak:
    """Repeats the product until the budget is spent, doubling its size while one call is a small part of it."""
    generator, num_threads = torch.Generator().manual_seed(0), torch.get_num_threads()
    size, seconds, best, wall, cpu = 128, 0.0, 0.0, 0.0, 0.0
    deadline = time.perf_counter() + budget_seconds
    while best == 0.0 or time.perf_counter() < deadline:
        if seconds < budget_seconds / 100 and size < 4096:
            size *= 2
            x, weight = (torch.randn(size, size, generator=generator).to(dtype) for _ in range(2))
            kernel(x, weight.t())  # the first call of a shape builds its kernel
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        kernel(x, weight.t())
        cpu += time.process_time() - cpu_start
        seconds = time.perf_counter() - wall_start
        wall += seconds
        best = max(best, 2 * size**3 / seconds / 1e12)
    return CpuPeak(best, settled=cpu > 0.9 * num_threads * wall)


def _cached_cpu_peak(precision: Precision, cache_dir: Path) -> float:
    threads = f"{torch.get_num_threads()} threads"
    key = f"{machine_cache.cpu_model()}, {threads}, {precision}, two kernels, torch {torch.__version__}"
    cached = _read_cache(cache_dir, key)
    if cached is not None and cached.settled:
        return cached.tflops
    peak = measure_cpu_peak(precision)
    if cached is not None:  # a peak is the best ever seen: an earlier try on a busy machine still counts
        peak = CpuPeak(max(peak.tflops, cached.tflops), peak.settled)
    machine_cache.write(cache_dir, "peak", key, {"tflops": peak.tflops, "settled": peak.settled})
    return peak.tflops


def _read_cache(cache_dir: Path, key: str) -> CpuPeak | None:
    entry = machine_cache.read(cache_dir, "peak", key)
    if entry is None:
        return None
    try:
        peak = CpuPeak(float(entry["tflops"]), entry["settled"] is True)
    except (ValueError, TypeError, KeyError) as error:
        log.info("measuring the peak again, the cached one is unreadable: %s", reason_of(error))
        return None
    return peak if 0 < peak.tflops < math.inf else None
