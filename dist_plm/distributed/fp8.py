"""Whether this rank can compute in 8 bits."""

import torch

from dist_plm.core.errors import ConfigError
from dist_plm.distributed.device import Device
from dist_plm.spec.rules.fp8 import fp8_problem


def check_fp8(device: Device) -> None:
    """Refuses a GPU that cannot train in FP8. A CPU can, slowly: PyTorch multiplies there what a GPU would.

    Raises:
        ConfigError: it cannot, and why.
    """
    if device.kind != "cuda":
        return
    if torch.version.hip is not None:
        raise ConfigError(["precision.name = 'fp8' is of NVIDIA GPUs, and this one is AMD's: set precision=bf16"])
    if problem := fp8_problem(torch.cuda.get_device_capability(device.torch_device)):
        raise ConfigError([problem])
