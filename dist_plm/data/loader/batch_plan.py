"""Plans the samples that a rank takes at a step. Only the global batch decides what a step learns from; ranks and microbatches
cut it up.

Step t uses samples [t * global_batch, (t + 1) * global_batch), or as many as follow those of the step before where batches
differ. Data rank d takes the contiguous block d of them, and microbatch m the contiguous block m of that.
"""

from bisect import bisect_right
from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.loader.skipped_samples import SkippedSamples


def num_microbatches(*, global_batch: int, micro_batch: int, data_size: int) -> int:
    """Microbatches a data rank runs in a step. The sizes must divide; `spec.rules` refuses those that do not."""
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


class _Run(NamedTuple):
    """Steps of one batch size, by the first of the plan's microbatches among them and the number of their first sample."""

    microbatch: int
    sample: int
    global_batch: int


class BatchPlan(Sequence[NDArray[np.int64]]):
    """The samples of a data rank's microbatches, in order, of steps [start_step, stop_step). Slices are plans too.

    Args:
        first_sample: of the first step; None where every step before took `global_batch`.
        runs: numbers of steps and the batch that they take, one after the other; None where all take `global_batch`.
        skipped: samples that the run leaves out: the others are counted without them.
    """

    def __init__(
        self,
        start_step: int,
        stop_step: int,
        data_rank: int,
        *,
        global_batch: int,
        micro_batch: int,
        data_size: int,
        first_sample: int | None = None,
        runs: Sequence[tuple[int, int]] | None = None,
        skipped: SkippedSamples = SkippedSamples(),  # noqa: B008 (frozen)
    ) -> None:
        self._skipped = skipped
        self._grid = {"micro_batch": micro_batch, "data_size": data_size}
        self._data_rank = data_rank
        self._runs: list[_Run] = []
        sample = start_step * global_batch if first_sample is None else first_sample
        total = 0
        for steps, batch in [(stop_step - start_step, global_batch)] if runs is None else runs:
            self._runs.append(_Run(total, sample, batch))
            total += steps * num_microbatches(global_batch=batch, **self._grid)
            sample += steps * batch
        self._positions = range(total)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index):
        if isinstance(index, slice):
            part = copy(self)
            part._positions = self._positions[index]
            return part
        position = self._positions[index]
        run = self._runs[bisect_right(self._runs, position, key=lambda run: run.microbatch) - 1]
        per_step = num_microbatches(global_batch=run.global_batch, **self._grid)
        step, microbatch = divmod(position - run.microbatch, per_step)
        places = run.sample + microbatch_samples(
            step, microbatch, self._data_rank, global_batch=run.global_batch, **self._grid
        )
        return self._skipped.numbers(places)
