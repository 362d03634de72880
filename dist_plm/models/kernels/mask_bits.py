"""The random bits of dropout on the CPU: a counter-based hash of (key, row, column), the integers of the Triton kernels.

A row has two words of 32 bits, cut from number `row` of the SplitMix64 stream of its key. They start and step a Weyl
sequence over the row's pairs of columns, whose members a bijection of 32 bits scrambles (lowbias32: Wellons 2018,
"Prospecting for Hash Functions"). Each half of a word decides of one column.

PyTorch's integers have signs: a shift brings in copies of the highest bit, which are masked away.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_plm.core.randomness.random_numbers import bits

#: Probabilities are multiples of 1 / LEVELS.
LEVELS = 2**16
#: Elements whose words a thread scrambles at once: what a core's cache holds.
_BLOCK = 2**18
#: Bits of a word that each step adds to those below, and what it is multiplied with then.
_STEPS = ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32), (16, 1))


def threshold_of(probability: float) -> int:
    """Counts how many of the LEVELS drop an element."""
    return min(round(probability * LEVELS), LEVELS - 1)


def row_words(keys: NDArray[np.uint64], rows: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Draws the start (low half) and the odd step (high half) of rows; keys and rows broadcast against each other."""
    words = bits(keys, rows)
    words |= np.uint64(1 << 32)
    return words


def kept(words: NDArray[np.uint64], width: int, probability: float) -> Tensor:
    """Tells which elements of N rows stay: [N, width] int16, 1 if they do and else 0.

    Args:
        words: [N], see `row_words`.
    """
    halves = torch.from_numpy(words.view(np.int32).reshape(-1, 2))
    scrambled = torch.arange(-(-width // 2), dtype=torch.int32) * halves[:, 1:]
    scrambled.add_(halves[:, :1])
    shifted = torch.empty_like(scrambled)
    for shift, factor in _STEPS:
        torch.bitwise_right_shift(scrambled, shift, out=shifted)
        scrambled.bitwise_xor_(shifted.bitwise_and_((1 << (32 - shift)) - 1))
        if factor != 1:
            scrambled.mul_(factor)
    # Compared as signed numbers, as the kernels do.
    return scrambled.view(torch.int16)[:, :width].ge_(threshold_of(probability) - LEVELS // 2)


def blocks(rows: int, width: int, elements: int | None = None) -> list[slice]:
    """Cuts rows of `width` elements into blocks of so many elements; by default the threads' caches hold their words."""
    step = max(1, (elements or _BLOCK * torch.get_num_threads()) // width)
    return [slice(first, first + step) for first in range(0, rows, step)]
