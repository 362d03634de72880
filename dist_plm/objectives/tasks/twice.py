"""Reads each training sample twice in one pass, with two masks of dropout, so that what is said of it can be made to agree
(Liang et al. 2021, R-Drop, arXiv 2106.14448, section 2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.objectives.base import IGNORED

#: Added to the number of a sample whose second reading draws its masks by it: no run has as many.
_SECOND = 2**62


@dataclass(frozen=True, slots=True)
class Twice:
    """Collates like `collate`, in training with every row twice, one after the other. The array `twins` says of which
    samples the two readings are compared: of those that are labelled, at the first of their rows."""

    collate: Callable[[Any], dict[str, NDArray]]
    learns: bool

    def __call__(self, examples: Any) -> dict[str, NDArray]:
        batch = self.collate(examples)
        if not self.learns:
            return {**batch, "twins": np.full(len(batch["samples"]), IGNORED, dtype=np.int64)}
        batch = {name: np.repeat(array, 2, axis=0) for name, array in batch.items()}
        is_labelled = batch["class_labels"] >= 0 if "class_labels" in batch else batch["target_mask"] > 0
        batch["twins"] = np.where(is_labelled, 0, IGNORED)
        batch["twins"][1::2] = IGNORED
        batch["samples"][1::2] += _SECOND
        return batch
