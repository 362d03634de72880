"""Finds the spans of a window that score best."""

import numpy as np
from numpy.typing import NDArray


def best_spans(
    starts: NDArray[np.float32], ends: NDArray[np.float32], count: int, longest: int
) -> list[tuple[float, int, int]]:
    """Lists the `count` spans of up to `longest` tokens whose scores of start and end have the largest sums, best first, as
    (sum, first token, last token). All spans are looked at.

    Args:
        starts, ends: [N], of each token.
    """
    size, longest = len(starts), min(longest, len(starts))
    if size == 0:
        return []
    padded = np.append(ends, np.full(longest - 1, -np.inf, ends.dtype))
    sums = starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)  # [N, longest]
    flat = sums.ravel()
    kept = np.argpartition(-flat, count - 1)[:count] if count < len(flat) else np.arange(len(flat))
    kept = kept[np.lexsort((kept, -flat[kept]))]
    return [(float(flat[i]), int(i // longest), int(i // longest + i % longest)) for i in kept if flat[i] > -np.inf]
