"""Whether this rank can compute in 8 bits."""

import importlib

import torch

from dist_plm.core.errors import ConfigError
from dist_plm.distributed.device import Device
from dist_plm.spec.rules.fp8 import Fp8Facts, fp8_problem


def fp8_facts(device: Device) -> Fp8Facts:
    """Looks; imports Transformer Engine where it is."""
    capability = torch.cuda.get_device_capability(device.torch_device) if device.kind == "cuda" else None
    try:
        importlib.import_module("transformer_engine.pytorch")
        version = str(importlib.import_module("transformer_engine").__version__)
    except (ImportError, OSError) as error:  # OSError: of another CUDA than this machine's
        return Fp8Facts(None, capability, why_not=str(error))
    return Fp8Facts(version, capability)


def check_fp8(device: Device) -> None:
    """Refuses a device that cannot train in FP8.

    Raises:
        ConfigError: it cannot, and why.
    """
    if problem := fp8_problem(fp8_facts(device)):
        raise ConfigError([problem])
