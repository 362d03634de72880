"""Measures how this CPU multiplies matrices faster: those in fp32 by MKL, which PyTorch takes, or by oneDNN; those of 16 bits
as they are or in fp32.

It depends on the chip. In fp32 oneDNN took half of MKL's time on a Zen 5, and as long on a Zen 4. Where a chip does not
multiply 16 bits itself, PyTorch takes 5 to 200 times as long for them as for fp32, longest for gradients of inputs.
"""

import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.distributed import machine_cache
from dist_plm.distributed.collectives import all_reduce
from dist_plm.distributed.device import Device

#: How much faster the other way has to be to be taken: what noise cannot turn from start to start.
WORTHWHILE = 1.2
#: Times that each product is made, and seconds after which it is not made again.
_REPEATS, _ENOUGH = 6, 0.05
#: Rows, inputs and outputs of the layer that is measured.
_SHAPE = (256, 384, 1536)

_Kernel = Callable[[Tensor, Tensor], Tensor]


def has_onednn() -> bool:
    """Whether this PyTorch multiplies by oneDNN when told to."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def by_onednn(left: Tensor, right: Tensor) -> Tensor:
    """[N, K], [K, M] -> [N, M]."""
    return torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")


def by_fp32(left: Tensor, right: Tensor) -> Tensor:
    """[N, K], [K, M] -> [N, M], of 16 bits."""
    return torch.mm(left.float(), right.float()).to(left.dtype)


def onednn_pays(device: Device, group: dist.ProcessGroup, *, cache_dir: Path | None = None) -> bool:
    """Tells whether fp32 products are to be left to oneDNN: where it is clearly faster on the machines of all ranks, as ranks
    that hold copies of a weight have to compute alike. Collective.

    The first start on a machine takes a tenth of a second for it, later ones read what was found.
    """
    if device.kind != "cpu":
        return False
    return _pays(speed_of_onednn(cache_dir or machine_cache.user_cache_dir()), group)


def fp32_pays(dtype: torch.dtype, device: Device, group: dist.ProcessGroup, *, cache_dir: Path | None = None) -> bool:
    """Tells whether products of 16 bits are to be made in fp32 and rounded, on the same terms. Collective.

    The first start on a machine takes half a second for it where it does not multiply 16 bits itself.
    """
    if device.kind != "cpu" or dtype == torch.float32:
        return False
    return _pays(speeds_of(dtype, cache_dir or machine_cache.user_cache_dir())[0], group)


def _pays(speed: float, group: dist.ProcessGroup) -> bool:
    slowest = torch.tensor([speed])
    all_reduce(slowest, group, dist.ReduceOp.MIN)
    return slowest.item() >= WORTHWHILE


def speed_of_onednn(cache_dir: Path) -> float:
    """How many times as fast as PyTorch's default oneDNN is; 0 where there is none."""
    if not has_onednn():
        return 0.0
    return _kept(cache_dir, "products", torch.float32, lambda: (_measured(),), ("speed",))[0]


def speeds_of(dtype: torch.dtype, cache_dir: Path) -> tuple[float, float]:
    """Tells of a type of 16 bits how many times as fast as PyTorch's products those in fp32 are, operands turned to it and the
    result back; and how many times as long as those of fp32 itself the faster ones take."""
    kind = f"products_{dtype}".replace("torch.", "")
    speed, slowness = _kept(cache_dir, kind, dtype, partial(_measured_16, dtype), ("by_fp32", "slowness"))
    return speed, slowness


def _kept(
    cache_dir: Path, kind: str, dtype: torch.dtype, measure: Callable[[], tuple[float, ...]], names: tuple[str, ...]
) -> tuple[float, ...]:
    """Reads what was measured on this machine, or measures it."""
    capability = torch.backends.cpu.get_cpu_capability()
    key = f"{machine_cache.cpu_model()}, {capability}, {dtype}, torch {torch.__version__}"
    entry = machine_cache.read(cache_dir, kind, key) or {}
    found = tuple(entry.get(name) for name in names)
    if all(isinstance(value, float) and 0.0 < value < 1e4 for value in found):
        return found  # pyright: ignore[reportReturnType]
    found = measure()
    machine_cache.write(cache_dir, kind, key, dict(zip(names, found, strict=True)))
    return found


def _measured() -> float:
    """Compares oneDNN with PyTorch's default."""
    default, found = _seconds([(torch.mm, torch.float32), (by_onednn, torch.float32)])
    return default / found


@cache  # where the user's directory cannot be written to, two ask
def _measured_16(dtype: torch.dtype) -> tuple[float, float]:
    plain, wide, fp32 = _seconds([(torch.mm, dtype), (by_fp32, dtype), (torch.mm, torch.float32)])
    return plain / wide, min(plain, wide) / fp32


@torch.no_grad()
def _seconds(sides: list[tuple[_Kernel, torch.dtype]]) -> list[float]:
    """Seconds of a processor, which others on the machine hardly move, that each side takes for the three products of a linear
    layer. In turns and by one thread: several that wait for each other beside other work would count their waiting."""
    rows, inputs, outputs = _SHAPE
    draw = torch.Generator().manual_seed(0)
    x, weight, grad = (torch.randn(n, generator=draw) for n in ((rows, inputs), (outputs, inputs), (rows, outputs)))
    seconds, threads = [1e-9] * len(sides), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for left, right in ((x, weight.t()), (grad, weight), (grad.t(), x)):
            fastest = _fastest([(kernel, left.to(dtype), right.to(dtype)) for kernel, dtype in sides])
            seconds = [total + found for total, found in zip(seconds, fastest, strict=True)]
    finally:
        torch.set_num_threads(threads)
    return seconds


def _fastest(calls: list[tuple[_Kernel, Tensor, Tensor]]) -> list[float]:
    taken: list[list[float]] = [[] for _ in calls]
    # The first call of a shape builds its kernel.
    for _ in range(_REPEATS):
        for (kernel, left, right), found in zip(calls, taken, strict=True):
            if sum(found) < _ENOUGH:
                began = time.process_time()
                kernel(left, right)
                found.append(time.process_time() - began)
    return [min(found) for found in taken]
