"""Span corruption (Raffel et al. 2020, T5, section 3.1.4): spans of text give way to sentinels, and the decoder writes
what stood there. Lengths are those of `random_spans_helper` and `random_spans_noise_mask` of their code."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_plm.core import random_numbers as rng
from dist_plm.core.random_numbers import Purpose
from dist_plm.objectives.base import Arrays, LossTerm, Windows
from dist_plm.objectives.special_tokens import SpecialTokens
from dist_plm.spec.schema import ObjectiveConfig

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SpanCounts:
    """How a window of `window` tokens is divided: tokens in `spans` corrupted spans, and the others."""

    window: int
    noise: int
    spans: int

    @classmethod
    def of(cls, window: int, rate: float, mean_span: float) -> "SpanCounts":
        """At least one token is corrupted and one is not, and as many spans are corrupted as are not."""
        noise = min(max(round(window * rate), 1), window - 1)
        spans = min(max(round(noise / mean_span), 1), noise, window - noise)
        return cls(window, noise, spans)

    @property
    def inputs(self) -> int:
        """Encoder length: tokens that stay, a sentinel for each span, end of sequence."""
        return self.window - self.noise + self.spans + 1

    @property
    def targets(self) -> int:
        """Decoder length: corrupted tokens, a sentinel before each span, end of sequence."""
        return self.noise + self.spans + 1


def longest_window(sequence_length: int, rate: float, mean_span: float) -> int:
    """The most tokens whose corrupted form still fits an encoder length of `sequence_length` >= 3. It fills that length
    exactly, unless the rate is so high and spans so short that no text is left between them."""
    window = sequence_length - 1
    while SpanCounts.of(window + 1, rate, mean_span).inputs <= sequence_length:
        window += 1
    return window


def corrupted(seed: int, samples: Ints, counts: SpanCounts) -> NDArray[np.bool_]:
    """Which tokens are corrupted, [B, window]: spans that stay and spans that do not in turn, the first of which stays.
    All ways to divide the tokens of either kind into spans are equally likely."""
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


@dataclass(frozen=True, slots=True)
class SpanCorruption:
    """Windows are longer than the encoder's input by what corruption takes away. Document ends within a window are
    tokens like others, as the lengths are the same for all windows."""

    config: ObjectiveConfig
    special: SpecialTokens
    seed: int
    source: Literal["windows"] = "windows"

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {"span": LossTerm(1.0, "labels")}

    def window_length(self, sequence_length: int) -> int:
        return longest_window(sequence_length, self.config.mask_rate, self.config.mean_span)

    def counts(self, window: int) -> SpanCounts:
        """How windows of `window` tokens are divided; its `targets` is the decoder's length."""
        return SpanCounts.of(window, self.config.mask_rate, self.config.mean_span)

    def collate(self, windows: Windows, /) -> Arrays:
        """See Objective.collate. Adds `decoder_tokens` [B, T]; `labels` are [B, T]."""
        tokens = windows.tokens[:, :-1]
        counts = self.counts(tokens.shape[1])
        noise = corrupted(self.seed, windows.samples, counts)
        assert self.special.pad is not None
        labels = self._mark_spans(tokens, ~noise)
        start = np.full((len(tokens), 1), self.special.pad)
        return {
            "tokens": self._mark_spans(tokens, noise),
            "labels": labels,
            "samples": windows.samples,
            "decoder_tokens": np.concatenate([start, labels[:, :-1]], axis=1),
        }

    def _mark_spans(self, tokens: Ints, gone: NDArray[np.bool_]) -> Ints:
        """Tokens with each span of `gone` replaced by its sentinel, and end of sequence added. Equally many are gone
        from every row, in equally many spans."""
        first = gone.copy()
        first[:, 1:] &= ~gone[:, :-1]
        sentinels = np.array(self.special.sentinels)[np.cumsum(first, axis=1) - 1]
        kept = np.where(first, sentinels, tokens)[~gone | first].reshape(len(tokens), -1)
        return np.concatenate([kept, np.full((len(tokens), 1), self.special.eos)], axis=1)
