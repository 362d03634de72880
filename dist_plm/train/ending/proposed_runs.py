"""Proposes runs that differ from one that has finished: such as the rules allow and its machine can start."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from dist_plm.core.errors import ConfigError
from dist_plm.distributed.device import Device
from dist_plm.spec.rules.finalize import finalize
from dist_plm.spec.schema import ParallelConfig, TrainingConfig

#: The first GPUs that multiply bf16 on tensor cores (compute capability).
_FAST_IN_BF16 = (8, 0)


@dataclass(frozen=True, slots=True)
class ProposedRun:
    """Holds what is changed of a run, and on how many processes it is started."""

    processes: int
    changes: tuple[str, ...]


def proposed_runs(config: TrainingConfig, device: Device) -> Iterator[ProposedRun]:
    """Yields the finished run `config` split over two processes, and one that learns for longer, in bf16 where `device` is
    fast at that and the run was not in 16 bits."""
    several = device.kind == "cpu" or torch.cuda.device_count() > 1
    if several and _can_be(config, 2, ParallelConfig(tensor=2)):
        yield ProposedRun(2, ("parallel.tensor=2", "run.name=tensor2"))
    faster = is_fast_in_bf16(device) and config.precision.weights == "fp32"
    to_its_end = ["train.stop_at=null"] if config.train.stop_at is not None else []
    longer = (*(["precision=bf16"] if faster else []), *to_its_end, config.train.longer, "run.name=longer")
    for processes in (2, 1) if several else (1,):
        if _can_be(config, processes, ParallelConfig()):
            yield ProposedRun(processes, longer)
            return


def is_fast_in_bf16(device: Device) -> bool:
    """Tells whether a device computes faster in bf16: a CPU seldom does, and many emulate it."""
    return device.kind == "cuda" and torch.cuda.get_device_capability(device.torch_device) >= _FAST_IN_BF16


def _can_be(config: TrainingConfig, processes: int, parallel: ParallelConfig) -> bool:
    try:
        finalize(replace(config, parallel=parallel), world_size=processes, vocab_size=None)
    except ConfigError:
        return False
    return True
