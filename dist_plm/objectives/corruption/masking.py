"""Chooses the tokens that a masked language model predicts, and what it sees in their place.

What is masked is chosen in units: tokens, words, or words in spans. A row of n units has floor(n * rate + u) of them
masked, u uniform in [0, 1) (as RoBERTa's own code rounds), and every unit is as likely as any other, so the expected
rate is exact for tokens, words and spans alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.randomness import random_numbers as rng
from dist_plm.core.randomness.random_numbers import Purpose
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.objectives.base import IGNORED, Reader
from dist_plm.objectives.corruption.span_masking import SpanLengths, spans_around_a_circle
from dist_plm.objectives.corruption.word_segmenter import WordSegmenter
from dist_plm.spec.objectives.masking import MaskingConfig

Flags = NDArray[np.bool_]
Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Masking:
    """Corrupts rows of tokens.

    Attributes:
        split: shares of the masked tokens that become `mask`, become a random token, and stay.
        units: chosen by `tokens`, by whole `words`, or by `spans` of whole words, whose lengths `span_lengths` gives
            (Joshi et al. 2020, SpanBERT, section 3.1). A span is replaced by one rule as a whole, words token by token.
        is_special: [V]; these tokens are never masked.
        ordinary: [V - specials], the tokens that random replacements are drawn from, uniformly.
        continues: [V], needed for words and spans wherever rows come without word numbers.
    """

    seed: int
    rate: float
    split: tuple[float, float, float]
    units: Literal["tokens", "words", "spans"]
    span_lengths: SpanLengths
    mask: int
    is_special: Flags
    ordinary: Tokens
    continues: Flags | None

    def __call__(
        self,
        tokens: Tokens,
        samples: NDArray[np.int64],
        *,
        documents: NDArray[np.int32] | None = None,
        words: NDArray[np.int64] | None = None,
    ) -> tuple[Tokens, Tokens]:
        """Corrupted tokens and labels (IGNORED where nothing is predicted), both [B, S].

        Args:
            tokens: [B, S], special tokens and padding included.
            samples: [B], numbers of the samples.
            documents: [B, S]; no word reaches across documents.
            words: [B, S], numbers of the words that tokens belong to, for text whose vocabulary does not tell.
        """
        maskable = ~self.is_special.take(tokens)
        if self.units == "tokens":
            masked = self._choose(maskable, samples)
            together = None
        else:
            begins = self._word_begins(tokens, maskable, documents, words)
            masked, together = self._mask_words(begins, maskable, samples)
        labels = np.where(masked, tokens, IGNORED)
        return self._replace(tokens, samples, masked, together), labels

    def _choose(self, units: Flags, samples: NDArray[np.int64]) -> Flags:
        """Each row's share of the units that are set."""
        return rng.choose(rng.keys(self.seed, samples, Purpose.CHOICE), units, self._count(units, samples))

    def _count(self, units: Flags, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        rounding = rng.uniform(rng.single(self.seed, samples, Purpose.COUNT))
        return np.floor(np.count_nonzero(units, axis=1) * self.rate + rounding).astype(np.int64)

    def _word_begins(
        self,
        tokens: Tokens,
        maskable: Flags,
        documents: NDArray[np.int32] | None,
        words: NDArray[np.int64] | None,
    ) -> Flags:
        """Where a word begins: at tokens that do not continue one, and wherever there is none to continue."""
        if words is not None:
            continued = words[:, 1:] == words[:, :-1]
        else:
            assert self.continues is not None, "words are neither given nor known from the vocabulary"
            continued = self.continues.take(tokens[:, 1:])
        continued = continued & maskable[:, :-1]
        if documents is not None:
            continued &= documents[:, 1:] == documents[:, :-1]
        begins = maskable.copy()
        begins[:, 1:] &= ~continued
        return begins

    def _mask_words(
        self, begins: Flags, maskable: Flags, samples: NDArray[np.int64]
    ) -> tuple[Flags, NDArray[np.int64] | None]:
        """Masked tokens, and which of them are replaced by one rule: the number of each one's span, [B, S]."""
        if self.units == "words":
            masked, together = self._choose(begins, samples), None
            word = np.maximum.accumulate(np.where(begins, np.arange(begins.shape[1]), 0), axis=1)
        else:
            masked, spans = spans_around_a_circle(
                self.seed, samples, np.count_nonzero(begins, axis=1), self._count(begins, samples), self.span_lengths
            )
            word = np.maximum(np.cumsum(begins, axis=1) - 1, 0)
            together = np.take_along_axis(spans, word, axis=1)
        return np.take_along_axis(masked, word, axis=1) & maskable, together

    def _replace(
        self, tokens: Tokens, samples: NDArray[np.int64], masked: Flags, together: NDArray[np.int64] | None
    ) -> Tokens:
        rows, columns = np.divmod(np.flatnonzero(masked), masked.shape[1])  # a fifth of the time of nonzero of rows
        counters = columns if together is None else together[rows, columns]
        action = rng.uniform(rng.bits(rng.keys(self.seed, samples, Purpose.ACTION)[rows], counters))
        corrupted = tokens.copy()
        to_mask = action < self.split[0]
        corrupted[rows[to_mask], columns[to_mask]] = self.mask
        # The last share takes what rounding leaves of the sum of the three.
        to_random = ~to_mask & (action < 1.0 - self.split[2])
        rows, columns = rows[to_random], columns[to_random]
        number = rng.bits(rng.keys(self.seed, samples, Purpose.REPLACEMENT)[rows], columns)
        corrupted[rows, columns] = self.ordinary[rng.below(number, len(self.ordinary))]
        return corrupted


def masking_of(config: MaskingConfig, special: SpecialTokens, seed: int) -> Masking:
    """Returns the masking that a section describes."""
    assert special.mask is not None
    is_special = special.is_special()
    return Masking(
        seed=seed,
        rate=config.mask_rate,
        split=config.split,
        units=config.mask_units,
        span_lengths=SpanLengths(config.span_p, config.span_longest),
        mask=special.mask,
        is_special=is_special,
        ordinary=np.flatnonzero(~is_special),
        continues=special.continues,
    )


def segmenter_of(config: MaskingConfig, special: SpecialTokens) -> WordSegmenter | None:
    """Returns what finds the words of text without spaces; None where the section names nothing."""
    if config.word_segmenter is None:
        return None
    assert special.pieces is not None
    assert special.continues is not None
    return WordSegmenter.of(special.pieces, special.continues)


def problems(config: MaskingConfig, special: SpecialTokens, reader: Reader) -> Iterator[str]:
    """Yields what the data's tokenizer lacks for masking."""
    if config.mask_units != "tokens" and special.continues is None:
        yield (
            f"objective.mask_units = {config.mask_units!r} needs a tokenizer that marks where words begin, which the "
            "data's does not: set objective.mask_units=tokens, or prepare the data with another tokenizer"
        )
    if config.word_segmenter is not None and special.pieces is None:
        yield (
            "objective.word_segmenter = 'jieba' reads the text of tokens, but those of the data's tokenizer are bytes: "
            "prepare the data with tokenizer=wordpiece or unigram, or set objective.word_segmenter=null"
        )
