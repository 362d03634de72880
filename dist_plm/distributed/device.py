"""Chooses the device that a rank computes on."""

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from dist_plm.core.errors import ConfigError
from dist_plm.distributed import cuda_shim

#: Set by whoever gives each process a device of its own (Slurm's --gpus-per-task), or lets several share one.
_ONE_EACH = ("CUDA_VISIBLE_DEVICES", "SLURM_GPUS_PER_TASK", "SLURM_TASKS_PER_GPU", "NCCL_MULTI_RANK_GPU_ENABLE")
#: Unless the environment says otherwise; read when CUDA and NCCL begin.
_CUDA_SETTINGS = {
    # Memory freed in pieces serves large tensors again, where sequences and batches vary.
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    # What a hang is told by: the last collectives, also where NCCL gives up by itself.
    "TORCH_FR_BUFFER_SIZE": "2000",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
}
#: What malloc.h of glibc calls the settings of `mallopt`.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
#: By which a user says what glibc's malloc keeps.
_MALLOC_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")


@dataclass(frozen=True, slots=True)
class Device:
    """Holds what a rank computes on and the `torch.distributed` backend that moves its tensors."""

    kind: Literal["cpu", "cuda"]
    torch_device: torch.device
    backend: Literal["gloo", "nccl"]


def choose(requested: Literal["auto", "cpu", "cuda"], local_rank: int) -> Device:
    """The device of the rank that is `local_rank`-th on its node.

    On CPU puts the stand-in for CUDA in place and keeps memory that is freed; on CUDA makes the device current and redirects
    nothing.

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
        # DeepSpeed would take a GPU that is there although nobody asks for it.
        os.environ["DS_ACCELERATOR"] = "cpu"
        cuda_shim.install()
        keep_freed_memory(os.environ)
        return Device(kind="cpu", torch_device=torch.device("cpu"), backend="gloo")
    assert not cuda_shim.installed(), "the CPU already stands in for CUDA in this process"
    index = _index_of(requested, local_rank)
    os.environ["DS_ACCELERATOR"] = "cuda"
    for name, value in _CUDA_SETTINGS.items():
        os.environ.setdefault(name, value)
    torch.cuda.set_device(index)
    return Device(kind="cuda", torch_device=torch.device("cuda", index), backend="nccl")


def keep_freed_memory(environ: Mapping[str, str]) -> None:
    """Has malloc keep what this process frees: glibc's gives tensors above 32 MiB and the end of its heap back to the system,
    and the next step takes them anew, page by page, a sixth of its time where the machine is a virtual one.

    Where the environment says what is kept, and where malloc is not glibc's, nothing changes.
    """
    if any(name in environ for name in _MALLOC_SETTINGS) or "glibc.malloc" in environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def make_deterministic(device: Device) -> None:
    """Has PyTorch and cuBLAS take algorithms that give the same bits at every run, or raise where they have none.

    Before the first product on the device: cuBLAS reads its setting when it begins.
    """
    if device.kind == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def multiply_in_tf32(device: Device) -> None:
    """Lets a GPU multiply fp32 matrices with 10 bits of mantissa; on a CPU nothing changes."""
    if device.kind == "cuda":
        torch.set_float32_matmul_precision("high")


def _index_of(requested: str, local_rank: int) -> int:
    """The number of this rank's device among those that its process sees."""
    if not torch.cuda.is_available():
        reason = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch finds no CUDA device"
        raise ConfigError(
            [f"cluster.device={requested}, but {reason}: set cluster.device=cpu, or auto to take what is there."]
        )
    count = torch.cuda.device_count()
    if count == 1 and any(os.environ.get(name) for name in _ONE_EACH):
        return 0
    if local_rank >= count:
        problem = f"cluster.device={requested}: local rank {local_rank} has no CUDA device, this node shows {count}"
        remedy = f"start at most {count} processes a node (torchrun --nproc-per-node, sbatch --ntasks-per-node)."
        raise ConfigError([f"{problem}: {remedy}"])
    return local_rank


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Gives values of the host on the device, which is not waited for."""
    if device.type == "cuda" and not values.is_pinned():
        values = values.pin_memory()  # a copy from other memory waits
    return values.to(device, non_blocking=True)
