"""Spans of words for masking (SpanBERT: Joshi et al. 2020, section 3.1), drawn for all rows at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.randomness import random_numbers as rng
from dist_plm.core.randomness.random_numbers import Purpose


@dataclass(frozen=True, slots=True)
class SpanLengths:
    """Lengths in words from a geometric distribution of parameter `p`, conditioned on at most `longest` words: 3.8
    words on average for SpanBERT's 0.2 and 10."""

    p: float
    longest: int

    def draw(self, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
        """One length for each of `bits`."""
        cumulative = 1.0 - (1.0 - self.p) ** np.arange(1, self.longest + 1)
        cumulative /= cumulative[-1]
        return 1 + np.searchsorted(cumulative, rng.uniform(bits), side="right")


def spans_around_a_circle(
    seed: int,
    samples: NDArray[np.int64],
    num_words: NDArray[np.int64],
    budget: NDArray[np.int64],
    lengths: SpanLengths,
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Masks `budget` words of each row in spans.

    Span lengths are drawn until the budget is spent, the last one cut to fit. Spans and unmasked words are put in
    random order around a circle, which is turned by a random angle and cut open: so all words are masked equally often,
    those at the ends as well. A span may touch the next, and one that lies over the cut comes out in two pieces.

    Args:
        samples, num_words, budget: [B]; no budget exceeds the row's words.
    Returns:
        Masked words, and the number of each word's span within its row (meaningless where not masked), both [B, W]
        with W the largest of `num_words`, 1 at least.
    """
    chosen, span_length = _order(seed, samples, num_words, budget, lengths)
    row_of, item = np.nonzero(np.arange(chosen.shape[1]) < (num_words - budget + _count(span_length))[:, None])
    is_span = chosen[row_of, item]
    span = np.cumsum(chosen, axis=1)[row_of, item] - 1
    size = np.ones(len(item), dtype=np.int64)
    size[is_span] = span_length[row_of[is_span], span[is_span]]
    width = int(num_words.max(initial=1))
    around = np.full((len(samples), width), -1, dtype=np.int64)
    index = np.arange(width)
    around[index < num_words[:, None]] = np.repeat(np.where(is_span, span, -1), size)
    words = np.maximum(num_words, 1)
    turn = rng.below(rng.single(seed, samples, Purpose.TURN), words)
    opened = np.take_along_axis(around, (index + turn[:, None]) % words[:, None], axis=1)
    masked = (opened >= 0) & (index < num_words[:, None])
    return masked, np.maximum(opened, 0)


def _order(
    seed: int,
    samples: NDArray[np.int64],
    num_words: NDArray[np.int64],
    budget: NDArray[np.int64],
    lengths: SpanLengths,
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Chooses the items around the circle that are spans, [B, most items], and the spans' lengths in words, [B, most spans], 0
    from each row's number of spans on. An item is a span or an unmasked word."""
    numbers = rng.grid(rng.keys(seed, samples, Purpose.SPAN_LENGTH), int(budget.max(initial=0)))
    drawn = lengths.draw(numbers)
    left = budget[:, None] - (np.cumsum(drawn, axis=1) - drawn)
    span_length = np.clip(left, 0, drawn)
    num_spans = _count(span_length)
    num_items = num_words - budget + num_spans
    places = np.arange(int(num_items.max(initial=0))) < num_items[:, None]
    return rng.choose(rng.keys(seed, samples, Purpose.CHOICE), places, num_spans), span_length


def _count(span_length: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.count_nonzero(span_length, axis=1)
