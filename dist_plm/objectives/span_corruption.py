"""Span corruption (Raffel et al. 2020, T5, section 3.1.4): spans of text give way to sentinels, and the decoder writes
what stood there. Lengths are those of `random_spans_helper` and `random_spans_noise_mask` of their code."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_plm.core import random_numbers as rng
from dist_plm.core.random_numbers import Purpose
from dist_plm.objectives.base import Arrays, LossTerm, Windows
from dist_plm.objectives.special_tokens import SpecialTokens
from dist_plm.spec.objectives.span import SpanConfig, SpanCounts

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


@dataclass(frozen=True, slots=True)
class SpanCorruption:
    """Windows are longer than the encoder's input by what corruption takes away. Document ends within a window are
    tokens like others, as the lengths are the same for all windows."""

    config: SpanConfig
    special: SpecialTokens
    seed: int
    source: Literal["windows"] = "windows"

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {"span": LossTerm(1.0, "labels")}

    def window_length(self, sequence_length: int) -> int:
        return self.config.window_length(sequence_length)

    def collate(self, windows: Windows, /) -> Arrays:
        """See Objective.collate. Adds `decoder_tokens` [B, T]; `labels` are [B, T]."""
        tokens = windows.tokens[:, :-1]
        counts = self.config.counts(tokens.shape[1])
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


def problems(config: SpanConfig, special: SpecialTokens, sequence_length: int | None) -> Iterator[str]:
    """Yields what leaves no text between spans, or has more spans than the data's tokenizer has sentinels."""
    assert sequence_length is not None
    counts = config.counts(config.window_length(sequence_length))
    settings = (
        f"data.sequence_length = {sequence_length} with objective.mask_rate = {config.mask_rate:g} and "
        f"objective.mean_span = {config.mean_span:g}"
    )
    if counts.inputs != sequence_length:
        yield f"{settings} has no room for text between so many spans: lengthen the spans, or lower the rate"
    elif counts.spans > len(special.sentinels):
        yield (
            f"{settings} makes {counts.spans} spans a sample, but the data's tokenizer has {len(special.sentinels)} "
            "sentinels: lengthen the spans, lower the rate, or prepare data with more sentinels"
        )


def build(config: SpanConfig, special: SpecialTokens, seed: int, sequence_length: int) -> SpanCorruption:
    return SpanCorruption(config, special, seed)
