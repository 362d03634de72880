"""What an objective is: it turns windows of tokens into model inputs and labels, and scores into sums.

Corruption runs on the host, in the loader's workers, and is a pure function of (seed, sample). Losses are sums, never
means: the engine divides once by the number of predicted tokens of the whole global batch, whatever the grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray]

#: A label that is not predicted: it has no loss, no gradient and no place in the denominator.
IGNORED = -1


class Windows(Protocol):
    """What the data floor hands out (data.dataset.Windows): `tokens` [B, S + 1] int64, `documents` [B, S + 1] int32 number
    of each token's document counted from the window's first, `samples` [B] int64."""

    @property
    def tokens(self) -> NDArray[np.int64]: ...
    @property
    def documents(self) -> NDArray[np.int32]: ...
    @property
    def samples(self) -> NDArray[np.int64]: ...


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One named part of the loss: its sum over all that it predicts, divided by their number in the whole global batch,
    counts `weight` times. It predicts the entries of array `over` that are not IGNORED."""

    weight: float
    over: str

    def count(self, batch: Mapping[str, Any]) -> int:
        """Number of predictions in a microbatch of arrays or tensors."""
        return int((batch[self.over] != IGNORED).sum())


class Objective(Protocol):
    @property
    def losses(self) -> Mapping[str, LossTerm]:
        """The parts of the loss, by the names they are logged under."""
        ...

    def collate(self, windows: Windows) -> Arrays:
        """Arrays of one microbatch, each with B as its first dim; `tokens` [B, S], `labels` [B, S], `samples` [B]."""
        ...
