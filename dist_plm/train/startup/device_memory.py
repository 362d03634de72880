"""Tells what a run has of a device's memory, and what to do where it is not enough."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dist_plm.core.errors import ConfigError
from dist_plm.spec.engines import EngineConfig
from dist_plm.spec.schema import ModelConfig, ParallelConfig

#: How PyTorch's allocator of the host's memory begins its complaint.
_HOST_IS_FULL = "DefaultCPUAllocator: can't allocate memory"


def memory_gib() -> float | None:
    """Measures the most of this process's GPU that tensors have held at once; None without one."""
    if not torch.cuda.is_initialized() or torch.version.cuda is None:
        return None
    return torch.cuda.max_memory_allocated() / 2**30


@contextmanager
def advice_on_memory(
    model: ModelConfig, parallel: ParallelConfig, engine: EngineConfig, micro_batch: int
) -> Iterator[None]:
    """Makes of memory that ran out a refusal which says what takes less: the run would not fit the next time either.

    Args:
        micro_batch: samples of a pass.
    Raises:
        ConfigError: a tensor found no room within.
    """
    try:
        yield
    except RuntimeError as error:
        full_host = _HOST_IS_FULL in str(error)
        if not isinstance(error, torch.OutOfMemoryError) and not full_host:
            raise
        where = "the memory of this machine" if full_host else "the GPU's memory"
        first = str(error).split("\n")[0].partition(". GPU")[0]
        advice = ", ".join(_advice(model, parallel, engine, micro_batch))
        raise ConfigError([f"the run does not fit in {where} ({first}): {advice}"]) from error


def _advice(model: ModelConfig, parallel: ParallelConfig, engine: EngineConfig, micro_batch: int) -> list[str]:
    advice = []
    if micro_batch > 1:
        advice.append(f"set train.micro_batch={micro_batch // 2} (the updates stay the same)")
    if model.recompute != "full":
        advice.append(f"model.recompute={'selective' if model.recompute == 'none' else 'full'}")
    if (parallel.data or 1) * parallel.context > 1 and engine.zero_stage < 3:
        advice.append("a higher engine.zero_stage")
    return [*advice, f"or parallel.tensor={2 * parallel.tensor} over more devices"]
