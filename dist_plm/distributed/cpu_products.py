"""Measures which library multiplies fp32 matrices faster on this CPU: MKL, which PyTorch takes, or oneDNN.

Which one it is depends on the chip: oneDNN took half of MKL's time on a Zen 5, and as long on a Zen 4.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from dist_plm.distributed import machine_cache
from dist_plm.distributed.collectives import all_reduce
from dist_plm.distributed.device import Device

#: How much faster oneDNN has to be to be taken: what noise cannot turn from start to start.
WORTHWHILE = 1.2
#: Times that each product is made.
_REPEATS = 5
#: Rows, inputs and outputs of the layer that is measured.
_SHAPE = (256, 384, 1536)


def onednn_pays(device: Device, group: dist.ProcessGroup, *, cache_dir: Path | None = None) -> bool:
    """Tells whether fp32 products are to be left to oneDNN: where it is clearly faster on the machines of all ranks, as ranks
    that hold copies of a weight have to compute alike. Collective.

    The first start on a machine takes a tenth of a second for it, later ones read what was found.
    """
    if device.kind != "cpu":
        return False
    slowest = torch.tensor([speed_of_onednn(cache_dir or machine_cache.user_cache_dir())])
    all_reduce(slowest, group, dist.ReduceOp.MIN)
    return slowest.item() >= WORTHWHILE


def speed_of_onednn(cache_dir: Path) -> float:
    """How many times as fast as PyTorch's default oneDNN is; 0 where there is none."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return 0.0
    key = f"{machine_cache.cpu_model()}, torch {torch.__version__}"
    found = machine_cache.read(cache_dir, "products", key)
    if found is not None and isinstance(found.get("speed"), float) and 0.0 < found["speed"] < 100.0:
        return found["speed"]
    speed = _measured()
    machine_cache.write(cache_dir, "products", key, {"speed": speed})
    return speed


@torch.no_grad()
def _measured() -> float:
    """Compares the three products of a linear layer in seconds of processors, which others on the machine hardly move."""
    rows, inputs, outputs = _SHAPE
    draw = torch.Generator().manual_seed(0)
    x, weight, grad = (
        torch.randn(size, generator=draw) for size in ((rows, inputs), (outputs, inputs), (rows, outputs))
    )
    pairs = [(x, weight.t()), (grad, weight), (grad.t(), x)]

    def default(left: Tensor, right: Tensor) -> Tensor:
        return torch.mm(left, right)

    def onednn(left: Tensor, right: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")

    theirs, ours = (sum(_seconds(kernel, *pair) for pair in pairs) for kernel in (default, onednn))
    return theirs / max(ours, 1e-9)


def _seconds(kernel: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor) -> float:
    kernel(left, right)  # the first call of a shape builds its kernel
    taken = []
    for _ in range(_REPEATS):
        began = time.process_time()
        kernel(left, right)
        taken.append(time.process_time() - began)
    return min(taken)
