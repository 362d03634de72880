"""Sets how this run computes where it is."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from dist_plm.distributed import machine_cache
from dist_plm.distributed.cpu_products import fp32_pays, onednn_pays, speeds_of
from dist_plm.distributed.device import Device, make_deterministic, multiply_in_tf32
from dist_plm.distributed.fp8 import check_fp8
from dist_plm.distributed.groups import Groups
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.models.build import DTYPES
from dist_plm.models.kernels.linear import multiply_by
from dist_plm.spec.schema import PrecisionConfig
from dist_plm.spec.schema_run import TrainConfig
from dist_plm.train.startup.cpu_threads import choose_threads

log = logging.getLogger(__name__)

#: How much longer than in fp32 products have to take for a user to be told.
SLOW = 1.5


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
    """Sets a rank's number of threads on a CPU, and the way it multiplies: the faster one here. Tells where a precision
    slows products down all the same. Collective."""
    choose_threads(environ, launch.node_name, groups.device, groups.world)
    dtype = DTYPES[precision.weights]
    by_fp32 = fp32_pays(dtype, groups.device, groups.world)
    if groups.device.kind == "cpu" and dtype != torch.float32 and groups.world.rank() == 0:
        tell_if_slow(precision.name, dtype)
    in_fp32 = by_fp32 or dtype == torch.float32
    multiply_by(fp32=by_fp32, onednn=in_fp32 and onednn_pays(groups.device, groups.world))


def tell_if_slow(name: str, dtype: torch.dtype, *, cache_dir: Path | None = None) -> None:
    """Warns where a precision named `name` multiplies in `dtype` more slowly than fp32 would on this CPU, whichever way."""
    _, slowness = speeds_of(dtype, cache_dir or machine_cache.user_cache_dir())
    if slowness >= SLOW:
        log.warning(
            "precision=%s: products take %.1f times as long as in fp32 on this CPU: precision=fp32 is faster here",
            name,
            slowness,
        )
