"""Spans of noise, which give way to sentinels (Raffel et al. 2020, T5, section 3.1.4). How text is divided into spans is as in
`random_spans_noise_mask` of their code."""

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.randomness import random_numbers as rng
from dist_plm.core.randomness.random_numbers import Purpose
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.spec.objectives.span import SpanCounts

Ints = NDArray[np.int64]


def corrupted(seed: int, samples: Ints, counts: SpanCounts) -> NDArray[np.bool_]:
    """Chooses the tokens that are corrupted, [B, window]: spans that stay and spans that do not in turn, the first of
    which stays. All ways to divide the tokens of either kind into spans are equally likely."""
    kept = _random_division(rng.keys(seed, samples, Purpose.KEPT), counts.window - counts.noise, counts.spans)
    noise = _random_division(rng.keys(seed, samples, Purpose.NOISE), counts.noise, counts.spans)
    ends = np.cumsum(np.stack([kept, noise], axis=2).reshape(len(samples), -1), axis=1)
    changes = np.zeros((len(samples), counts.window + 1), dtype=np.int8)
    np.put_along_axis(changes, ends, 1, axis=1)
    return np.cumsum(changes[:, :-1], axis=1, dtype=np.int64) % 2 == 1


def _random_division(keys: NDArray[np.uint64], total: int, parts: int) -> Ints:
    """Divides `total` things into `parts` of at least one each, [B, parts]."""
    places = np.ones((len(keys), total - 1), dtype=bool)
    cuts = rng.choose(keys, places, np.full(len(keys), parts - 1))
    inner = np.nonzero(cuts)[1].reshape(len(keys), parts - 1) + 1
    return np.diff(inner, axis=1, prepend=0, append=total)


def mark_spans(tokens: Ints, gone: NDArray[np.bool_], special: SpecialTokens) -> tuple[Ints, NDArray[np.bool_]]:
    """Replaces each span of `gone` by its sentinel.

    Args:
        tokens, gone: [B, N].
    Returns:
        tokens [B, N] with a sentinel where a span begins, and which of them are left, [B, N].
    """
    first = gone.copy()
    first[:, 1:] &= ~gone[:, :-1]
    sentinels = np.array(special.sentinels)[np.cumsum(first, axis=1) - 1]
    return np.where(first, sentinels, tokens), ~gone | first
