"""Microbatches in the making: several at a time, since most of the time of a small one would go into calls."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.samples import Arrays
from dist_plm.data.sampling.blend import Dataset

_BYTES = 2**20  # of arrays made at once: beyond, they no longer stay in a core's cache


def microbatches(
    dataset: Dataset,
    collate: Callable[[Any], Arrays],
    plan: Sequence[NDArray[np.int64]],
    trim: Callable[[Arrays], Arrays] | None = None,
) -> Iterator[Arrays]:
    """The arrays of each microbatch of a plan, in order, and of the first as soon as it is made.

    Args:
        collate: turns what the dataset reads into named arrays, each with a row for every sample, or as many for each, which
            depend on that sample alone: so rows of several microbatches can be made together and cut apart.
        trim: takes padding out of each microbatch.
    Raises:
        Whatever reading or collating a microbatch raises, after those before it.
    """
    done, together, alone = 0, 1, False
    while done < len(plan):
        samples = [plan[i] for i in range(done, min(done + together, len(plan)))]
        try:
            arrays = collate(dataset.read(np.concatenate(samples)))
        except Exception:
            if len(samples) == 1:
                raise
            together, alone = 1, True
            continue
        stops = np.cumsum([len(numbers) for numbers in samples]).tolist()
        for start, stop in zip([0, *stops], stops, strict=False):
            batch = {name: _cut(array, start, stop, stops[-1]) for name, array in arrays.items()}
            yield batch if trim is None else trim(batch)
        done += len(samples)
        if not alone:
            size = sum(array.nbytes for array in arrays.values()) // len(samples)
            together = max(_BYTES // max(size, 1), 1)


def _cut(array: NDArray, start: int, stop: int, count: int) -> NDArray:
    """The rows of samples `start` to `stop` out of `count`."""
    each = len(array) // count
    return array[start * each : stop * each]
