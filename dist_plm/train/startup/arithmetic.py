"""Sets how this run computes where it is."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.nn import functional

from dist_plm.distributed import machine_cache
from dist_plm.distributed.device import Device, make_deterministic, multiply_in_tf32
from dist_plm.distributed.fp8 import check_fp8
from dist_plm.distributed.cpu_products import onednn_pays
from dist_plm.distributed.groups import Groups
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.models.build import DTYPES
from dist_plm.models.kernels.linear import use_onednn
from dist_plm.spec.schema import PrecisionConfig
from dist_plm.spec.schema_run import TrainConfig
from dist_plm.train.startup.cpu_threads import choose_threads

log = logging.getLogger(__name__)

#: How much longer than in fp32 products have to take for a user to be told.
SLOW = 1.5
#: Rows, inputs and outputs of the layer that is measured.
_LAYER = (128, 384, 1536)
#: Times that each product is made.
_REPEATS = 3


def set_arithmetic(train: TrainConfig, precision: PrecisionConfig, device: Device) -> None:
    """Sets how a device computes, before it computes anything.

    Raises:
        ConfigError: it cannot compute so.
    """
    if train.deterministic:
        make_deterministic(device)
    if precision.in_8_bits:
        check_fp8(device)
    set_precision(precision, device)


def set_precision(precision: PrecisionConfig, device: Device) -> None:
    """Sets how a device multiplies."""
    if precision.tf32:
        multiply_in_tf32(device)


def prepare_cpu(precision: PrecisionConfig, groups: Groups, launch: LaunchEnv, environ: Mapping[str, str]) -> None:
    """Sets a rank's number of threads on a CPU, and the library that multiplies: the faster one here. Tells where a precision
    slows products down. Collective."""
    choose_threads(environ, launch.node_name, groups.device, groups.world)
    if groups.device.kind == "cpu" and precision.weights != "fp32" and groups.world.rank() == 0:
        tell_if_slow(precision.name, DTYPES[precision.weights])
    use_onednn(precision.weights == "fp32" and onednn_pays(groups.device, groups.world))


def tell_if_slow(name: str, dtype: torch.dtype, *, cache_dir: Path | None = None) -> None:
    """Warns where a precision named `name` multiplies in `dtype` more slowly than fp32 would on this CPU.

    The first start on a machine takes a tenth of a second for it, later ones read what was found.
    """
    slowness = _slowness(dtype, cache_dir or machine_cache.user_cache_dir())
    if slowness >= SLOW:
        log.warning(
            "precision=%s: products take %.1f times as long as in fp32 on this CPU: precision=fp32 is faster here",
            name,
            slowness,
        )


def _slowness(dtype: torch.dtype, cache_dir: Path) -> float:
    """How many times as long as in fp32 a product takes."""
    key = f"{machine_cache.cpu_model()}, {torch.backends.cpu.get_cpu_capability()}, {dtype}, torch {torch.__version__}"
    kind = f"products_{dtype}".replace("torch.", "")
    found = machine_cache.read(cache_dir, kind, key)
    if found is not None and isinstance(found.get("slowness"), float) and 0.0 < found["slowness"] < 1e4:
        return found["slowness"]
    slowness = _seconds(dtype) / max(_seconds(torch.float32), 1e-9)
    machine_cache.write(cache_dir, kind, key, {"slowness": slowness})
    return slowness


@torch.no_grad()
def _seconds(dtype: torch.dtype) -> float:
    """Seconds of processors, which others on the machine hardly move, of the fastest of several products."""
    rows, inputs, outputs = _LAYER
    x, weight = torch.ones(rows, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype)
    functional.linear(x, weight)  # the first call of a shape builds its kernel
    taken = []
    for _ in range(_REPEATS):
        began = time.process_time()
        functional.linear(x, weight)
        taken.append(time.process_time() - began)
    return min(taken)
