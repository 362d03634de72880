"""Which samples a rank takes at a step. Only the global batch decides what a step learns from; ranks and microbatches
cut it up.

Step t uses samples [t * global_batch, (t + 1) * global_batch). Data rank d takes the contiguous block d of them, and
microbatch m the contiguous block m of that.
"""

from collections.abc import Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray


def num_microbatches(*, global_batch: int, micro_batch: int, data_size: int) -> int:
    """Microbatches a data rank runs in a step. The sizes must divide; `config.rules` refuses those that do not."""
    assert global_batch % (micro_batch * data_size) == 0, f"{global_batch} % ({micro_batch} x {data_size})"
    return global_batch // (micro_batch * data_size)


def microbatch_samples(
    step: int, microbatch: int, data_rank: int, *, global_batch: int, micro_batch: int, data_size: int
) -> NDArray[np.int64]:
    """Numbers of the samples, [micro_batch], that `data_rank` takes in microbatch `microbatch` of `step`."""
    count = num_microbatches(global_batch=global_batch, micro_batch=micro_batch, data_size=data_size)
    assert step >= 0, f"step {step}"
    assert 0 <= microbatch < count, f"microbatch {microbatch} of {count}"
    assert 0 <= data_rank < data_size, f"data rank {data_rank} of {data_size}"
    first = step * global_batch + (data_rank * count + microbatch) * micro_batch
    return np.arange(first, first + micro_batch, dtype=np.int64)


class Plan(Sequence[NDArray[np.int64]]):
    """The samples of a data rank's microbatches, in order, of steps [start_step, stop_step). Slices are plans too."""

    def __init__(
        self, start_step: int, stop_step: int, data_rank: int, *, global_batch: int, micro_batch: int, data_size: int
    ) -> None:
        self._grid = {"global_batch": global_batch, "micro_batch": micro_batch, "data_size": data_size}
        self._data_rank = data_rank
        self._per_step = num_microbatches(**self._grid)
        self._positions = range(start_step * self._per_step, stop_step * self._per_step)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index):
        if isinstance(index, slice):
            part = copy(self)
            part._positions = self._positions[index]
            return part
        step, microbatch = divmod(self._positions[index], self._per_step)
        return microbatch_samples(step, microbatch, self._data_rank, **self._grid)
