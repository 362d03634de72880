"""Chooses the device that a rank computes on."""

import os
from dataclasses import dataclass
from typing import Literal

import torch

from dist_plm.core.errors import ConfigError
from dist_plm.distributed import cuda_shim


@dataclass(frozen=True, slots=True)
class Device:
    """Holds what a rank computes on and the `torch.distributed` backend that moves its tensors."""

    kind: Literal["cpu", "cuda"]
    torch_device: torch.device
    backend: Literal["gloo", "nccl"]


def choose(requested: Literal["auto", "cpu", "cuda"], local_rank: int) -> Device:
    """The device of the rank that is `local_rank`-th on its node.

    On CPU puts the stand-in for CUDA in place; on CUDA makes the device current and redirects nothing.

    Args:
        requested: `cluster.device`; auto takes CUDA where PyTorch finds a device.
        local_rank: number of this rank on its node, from 0.

    Raises:
        ConfigError: CUDA is asked for and absent, or the node has fewer CUDA devices than ranks.
    """
    # With a single CUDA work queue tensor-parallel communication starts before the computation it overlaps with;
    # Megatron-core relies on it and warns where it is unset. CUDA reads it when its context is made, so it comes first.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if requested == "cpu" or (requested == "auto" and not torch.cuda.is_available()):
        cuda_shim.install()
        return Device(kind="cpu", torch_device=torch.device("cpu"), backend="gloo")
    assert not cuda_shim.installed(), "the CPU already stands in for CUDA in this process"
    _check_cuda(requested, local_rank)
    torch.cuda.set_device(local_rank)
    return Device(kind="cuda", torch_device=torch.device("cuda", local_rank), backend="nccl")


def _check_cuda(requested: str, local_rank: int) -> None:
    if not torch.cuda.is_available():
        reason = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch finds no CUDA device"
        raise ConfigError(
            [f"cluster.device={requested}, but {reason}: set cluster.device=cpu, or auto to take what is there."]
        )
    count = torch.cuda.device_count()
    if local_rank >= count:
        problem = f"cluster.device={requested}: local rank {local_rank} has no CUDA device, this node shows {count}"
        remedy = f"start at most {count} processes a node (torchrun --nproc-per-node, sbatch --ntasks-per-node)."
        raise ConfigError([f"{problem}: {remedy}"])
