"""Sets how this run computes where it is."""

from collections.abc import Mapping

from dist_plm.distributed.device import Device, make_deterministic, multiply_in_tf32
from dist_plm.distributed.fp8 import check_fp8
from dist_plm.distributed.fp32_products import onednn_pays
from dist_plm.distributed.groups import Groups
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.models.kernels.linear import use_onednn
from dist_plm.spec.schema import PrecisionConfig
from dist_plm.spec.schema_run import TrainConfig
from dist_plm.train.startup.cpu_threads import choose_threads


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
    """Sets a rank's number of threads on a CPU, and the library that multiplies: the faster one here. Collective."""
    choose_threads(environ, launch.node_name, groups.device, groups.world)
    use_onednn(precision.weights == "fp32" and onednn_pays(groups.device, groups.world))
