"""Changes the words of labelled texts while they are learned: some are left out, change places or are masked (Wei & Zou 2019,
arXiv 1901.11196, section 2; Iyyer et al. 2015, section 3.2).

What happens to a sample depends on (seed, sample) alone, so on no grid and no stop.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.randomness.random_numbers import Purpose, grid, keys, uniform
from dist_plm.objectives.corruption.changeable_words import Changeable, Marks, Numbers
from dist_plm.spec.augmentation import AugmentConfig


@dataclass(frozen=True, slots=True, eq=False)
class WordNoise:
    """Collates like `collate`, and changes words of `tokens` [B, S] and with them what goes with these.

    Args:
        changeable: finds the words that may be changed.
        mask: stands in for masked words.
        padding: fills rows up.
    """

    collate: Callable[[Any], dict[str, NDArray]]
    augment: AugmentConfig
    changeable: Callable[[Mapping[str, NDArray]], Changeable]
    mask: int | None
    padding: int
    seed: int

    def __call__(self, examples: Any) -> dict[str, NDArray]:
        batch = self.collate(examples)
        tokens, lengths, words = batch["tokens"], batch["lengths"], self.changeable(batch)
        text, samples = words.text, words.samples
        places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        word = np.where(text, np.cumsum(words.begins, axis=1) - 1, 0)
        count = words.begins.sum(axis=1)
        rows, starts = np.nonzero(words.begins)
        exists = np.arange(max(int(count.max(initial=0)), 1)) < count[:, None]

        def by_word(values: NDArray, fill: int) -> NDArray:
            found = np.full(exists.shape, fill, dtype=values.dtype)
            found[exists] = values[rows, starts]
            return found

        def of_tokens(values: NDArray) -> NDArray:
            return np.take_along_axis(values, word, axis=1)

        gone = self._gone(samples, exists, by_word(words.side, -1), by_word(words.kept, 0))
        slot = self._slots(samples, exists & ~gone, by_word(words.part, -1))
        masked = exists & (self._drawn(samples, Purpose.WORD_MASKED, exists) < self.augment.mask)
        if self.mask is not None:
            tokens = np.where(text & of_tokens(masked), self.mask, tokens)
        # A word goes to where the word began whose slot it takes; what is left out goes behind the padding.
        key = np.where(text, of_tokens(np.take_along_axis(by_word(places, 0), slot, axis=1)), places)
        left_out = text & of_tokens(gone)
        order = np.argsort(np.where(left_out, 2 * tokens.shape[1], key), axis=1, kind="stable")
        lengths = lengths - left_out.sum(axis=1)
        beyond = places >= lengths[:, None]
        moved = {"tokens": np.where(beyond, self.padding, np.take_along_axis(tokens, order, axis=1))}
        for name, fill in words.beside.items():
            moved[name] = _moved(batch[name], order, beyond, fill)
        if "seen_from" in moved:  # what is not read both ways sees from its own place, which may be another now
            moved["seen_from"] = np.where(beyond | (moved["seen_from"] > 0), places, 0)
        return {**batch, **moved, "lengths": lengths}

    def _drawn(self, samples: Numbers, purpose: Purpose, words: Marks) -> NDArray[np.float64]:
        return uniform(grid(keys(self.seed, samples, purpose), words.shape[1]))

    def _gone(self, samples: Numbers, exists: Marks, side: Numbers, kept: Marks) -> Marks:
        """Chooses what is left out, [B, W]; of each text one word stays at least."""
        draws = self._drawn(samples, Purpose.WORD_GONE, exists)
        gone = exists & ~kept & (draws < self.augment.delete)
        for text in (0, 1):
            mine = exists & (side == text)
            emptied = mine.any(axis=1) & ~(mine & ~gone).any(axis=1)
            gone[emptied, np.where(mine, draws, -1.0).argmax(axis=1)[emptied]] = False
        return gone

    def _slots(self, samples: Numbers, stays: Marks, part: Numbers) -> Numbers:
        """Gives the word whose place each word takes, [B, W]: those chosen change places among themselves, in their part."""
        chosen = stays & (self._drawn(samples, Purpose.WORD_MOVES, stays) < self.augment.swap)
        draws = self._drawn(samples, Purpose.WORD_ORDER, stays)
        slots = np.broadcast_to(np.arange(stays.shape[1]), stays.shape).copy()
        # The chosen words of a row by part, once as they stand and once in another order; the others behind them.
        grouped = np.where(chosen, part, np.iinfo(part.dtype).max)
        as_they_stand = np.argsort(grouped, axis=1, kind="stable")
        shuffled = np.lexsort((draws, grouped), axis=1)
        moves = np.arange(stays.shape[1]) < chosen.sum(axis=1)[:, None]
        rows = np.nonzero(moves)[0]
        slots[rows, shuffled[moves]] = as_they_stand[moves]
        return slots


def _moved(array: NDArray, order: Numbers, beyond: Marks, fill: int) -> NDArray:
    """Puts what stands beside tokens in their new order; `array` [B, S, …]."""
    shape = (*order.shape, *[1] * (array.ndim - 2))
    return np.where(beyond.reshape(shape), fill, np.take_along_axis(array, order.reshape(shape), axis=1))
