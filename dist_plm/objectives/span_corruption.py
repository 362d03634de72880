"""Span corruption (Raffel et al. 2020, T5, section 3.1.4): spans of text give way to sentinels, and the decoder writes
what stood there. Lengths are those of `random_spans_helper` of their code."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.samples import Arrays, Windows
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.objectives.base import LossTerm, Reader
from dist_plm.objectives.corruption.noise_spans import corrupted, mark_spans
from dist_plm.spec.objectives.span import SpanConfig

Ints = NDArray[np.int64]


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
        marked, left = mark_spans(tokens, gone, self.special)
        kept = marked[left].reshape(len(tokens), -1)
        return np.concatenate([kept, np.full((len(tokens), 1), self.special.eos)], axis=1)


def problems(config: SpanConfig, special: SpecialTokens, reader: Reader) -> Iterator[str]:
    """Yields what leaves no text between spans, or has more spans than the data's tokenizer has sentinels."""
    sequence_length = reader.length
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


def build(config: SpanConfig, special: SpecialTokens, seed: int, reader: Reader) -> SpanCorruption:
    return SpanCorruption(config, special, seed)
