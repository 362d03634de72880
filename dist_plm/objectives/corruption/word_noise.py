"""Changes the words of labelled texts while they are learned: some are left out, change places or are masked (Wei & Zou 2019,
arXiv 1901.11196, section 2; Iyyer et al. 2015, section 3.2).

What happens to a sample depends on (seed, sample) alone, so on no grid and no stop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.random_numbers import Purpose, grid, keys, uniform
from dist_plm.spec.augmentation import AugmentConfig

Words = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class WordNoise:
    """Collates like `collate`, and changes words of `tokens` [B, S] and with them `segments`; special tokens stay.

    Args:
        is_special, continues: [V], tokens that are no text, and those that go on a word.
        mask: stands in for masked words.
        padding: fills rows up.
    """

    collate: Callable[[Any], dict[str, NDArray]]
    augment: AugmentConfig
    is_special: NDArray[np.bool_]
    continues: NDArray[np.bool_]
    mask: int | None
    padding: int
    seed: int

    def __call__(self, examples: Any) -> dict[str, NDArray]:
        batch = self.collate(examples)
        tokens, lengths, samples = batch["tokens"], batch["lengths"], batch["samples"]
        places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        segments = batch.get("segments", np.zeros_like(tokens))
        text = (places < lengths[:, None]) & ~self.is_special[tokens]
        begins = text & ~self.continues[tokens]
        begins[:, 1:] |= text[:, 1:] & ~text[:, :-1]
        begins[:, 0] |= text[:, 0]
        word = np.where(text, np.cumsum(begins, axis=1) - 1, 0)
        count = begins.sum(axis=1)
        rows, starts = np.nonzero(begins)
        exists = np.arange(max(int(count.max(initial=0)), 1)) < count[:, None]
        start, side = np.zeros(exists.shape, dtype=np.int64), np.full(exists.shape, -1)
        start[exists], side[exists] = starts, segments[rows, starts]

        gone = self._gone(samples, exists, side)
        slot = self._slots(samples, exists & ~gone, side)
        masked = exists & (self._drawn(samples, Purpose.WORD_MASKED, exists) < self.augment.mask)

        def of_tokens(words: NDArray) -> NDArray:
            return np.take_along_axis(words, word, axis=1)

        if self.mask is not None:
            tokens = np.where(text & of_tokens(masked), self.mask, tokens)
        # A word goes to where the word began whose slot it takes; what is left out goes behind the padding.
        key = np.where(text, of_tokens(np.take_along_axis(start, slot, axis=1)), places)
        left_out = text & of_tokens(gone)
        order = np.argsort(np.where(left_out, 2 * tokens.shape[1], key), axis=1, kind="stable")
        lengths = lengths - left_out.sum(axis=1)
        beyond = places >= lengths[:, None]
        batch["tokens"] = np.where(beyond, self.padding, np.take_along_axis(tokens, order, axis=1))
        if "segments" in batch:
            batch["segments"] = np.where(beyond, 0, np.take_along_axis(segments, order, axis=1))
        return {**batch, "lengths": lengths}

    def _drawn(self, samples: NDArray[np.int64], purpose: Purpose, words: Words) -> NDArray[np.float64]:
        return uniform(grid(keys(self.seed, samples, purpose), words.shape[1]))

    def _gone(self, samples: NDArray[np.int64], exists: Words, side: NDArray[np.int64]) -> Words:
        """Chooses what is left out, [B, W]; of each text one word stays at least."""
        draws = self._drawn(samples, Purpose.WORD_GONE, exists)
        gone = exists & (draws < self.augment.delete)
        for text in (0, 1):
            mine = exists & (side == text)
            emptied = mine.any(axis=1) & ~(mine & ~gone).any(axis=1)
            gone[emptied, np.where(mine, draws, -1.0).argmax(axis=1)[emptied]] = False
        return gone

    def _slots(self, samples: NDArray[np.int64], stays: Words, side: NDArray[np.int64]) -> NDArray[np.int64]:
        """Gives the word whose place each word takes, [B, W]: those chosen change places among themselves, in their text."""
        chosen = stays & (self._drawn(samples, Purpose.WORD_MOVES, stays) < self.augment.swap)
        order = self._drawn(samples, Purpose.WORD_ORDER, stays)
        slots = np.broadcast_to(np.arange(stays.shape[1]), stays.shape).copy()
        for text in (0, 1):
            mine = chosen & (side == text)
            ascending = np.argsort(~mine, axis=1, kind="stable")
            shuffled = np.argsort(np.where(mine, order, 2.0), axis=1, kind="stable")
            moved = np.arange(stays.shape[1]) < mine.sum(axis=1)[:, None]
            rows = np.nonzero(moved)[0]
            slots[rows, shuffled[moved]] = ascending[moved]
        return slots
