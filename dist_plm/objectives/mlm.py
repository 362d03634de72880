"""Masked language modelling over windows of text (Devlin et al. 2019, section 3.1; Liu et al. 2019, section 4.1, whose
masking anew at every epoch comes of itself here: a text seen again is another sample)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_plm.config.schema import ObjectiveConfig
from dist_plm.objectives.base import Arrays, LossTerm, Windows, lengths_of, words_of
from dist_plm.objectives.causal import positions_in_documents
from dist_plm.objectives.masking import Masking
from dist_plm.objectives.spans import SpanLengths
from dist_plm.objectives.tokens import SpecialTokens
from dist_plm.objectives.words import WordSegmenter


def build_masking(config: ObjectiveConfig, special: SpecialTokens, seed: int) -> Masking:
    """The masking that a configuration describes; everything masked becomes [MASK] under rtd, whose generator puts
    plausible tokens there."""
    assert special.mask is not None
    is_special = special.is_special()
    return Masking(
        seed=seed,
        rate=config.mask_rate,
        split=(1.0, 0.0, 0.0) if config.name == "rtd" else config.mask_split,
        units=config.mask_units,
        span_lengths=SpanLengths(config.span_p, config.span_longest),
        mask=special.mask,
        is_special=is_special,
        ordinary=np.flatnonzero(~is_special),
        continues=special.continues,
    )


@dataclass(frozen=True, slots=True)
class MaskedLanguageModel:
    """A window is framed as `[CLS] … [SEP]`, as far as the tokenizer has these tokens. With `document_mask` tokens
    attend within their document alone; with `reset_positions` positions start again at each document."""

    config: ObjectiveConfig
    special: SpecialTokens
    masking: Masking
    segmenter: WordSegmenter | None = None
    source: Literal["windows"] = "windows"

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {"mlm": LossTerm(1.0, "labels")}

    def window_length(self, sequence_length: int) -> int:
        return sequence_length - (self.special.cls is not None) - (self.special.sep is not None)

    def collate(self, windows: Windows, /) -> Arrays:
        """See Objective.collate. Adds `documents` and `positions` where the configuration asks for them."""
        return self._collate(windows)[0]

    def _collate(self, windows: Windows) -> tuple[Arrays, NDArray[np.int64]]:
        """The microbatch, and its tokens before corruption."""
        special = self.special
        tokens = self._frame(windows.tokens, special.cls, special.sep)
        documents = self._frame(windows.documents, windows.documents[:, 0], windows.documents[:, -2])
        words = self._words(windows)
        words = None if words is None else self._frame(words, -1, -1)
        lengths = lengths_of(windows)
        if lengths is not None:
            lengths = self._end(tokens, documents, lengths)
        corrupted, labels = self.masking(tokens, windows.samples, documents=documents, words=words)
        batch: Arrays = {"tokens": corrupted, "labels": labels, "samples": windows.samples}
        if lengths is not None and not self.config.document_mask:
            batch["lengths"] = lengths
        if self.config.document_mask:
            batch["documents"] = documents
        if self.config.reset_positions:
            batch["positions"] = positions_in_documents(documents)
        return batch, tokens

    def _words(self, windows: Windows) -> NDArray[np.int64] | None:
        words, (rows, length) = words_of(windows), windows.tokens.shape
        if words is not None or self.segmenter is None:
            return words
        return self.segmenter(windows.tokens.reshape(-1), length * np.arange(1, rows + 1)).reshape(rows, length)

    def _frame(self, numbers: NDArray, first: NDArray | int | None, last: NDArray | int | None) -> NDArray:
        """A window's numbers [B, window_length + 1] but for the last, between those of the frame: [B, S]."""
        front, inner = int(self.special.cls is not None), numbers.shape[1] - 1
        framed = np.empty((len(numbers), inner + front + (self.special.sep is not None)), dtype=numbers.dtype)
        framed[:, front : front + inner] = numbers[:, :-1]
        if self.special.cls is not None:
            framed[:, 0] = first
        if self.special.sep is not None:
            framed[:, -1] = last
        return framed

    def framed(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Lengths of rows with their frame, from those of their text."""
        return lengths + (self.special.cls is not None) + (self.special.sep is not None)

    def _end(
        self, tokens: NDArray[np.int64], documents: NDArray[np.int32], lengths: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Ends framed rows [B, S] of `lengths` [B] tokens of text where their text ends, in place: `[CLS] … [SEP] [PAD] …`.
        Returns their lengths with the frame, [B]."""
        special, rows = self.special, np.arange(len(tokens))
        lengths = self.framed(lengths)
        # Any special token will do: it is neither attended to nor predicted.
        assert special.mask is not None
        padding = special.mask if special.pad is None else special.pad
        tokens[np.arange(tokens.shape[1]) >= lengths[:, None]] = padding
        if special.sep is not None:
            tokens[rows, lengths - 1] = special.sep
            documents[rows, lengths - 1] = documents[rows, lengths - 2]
        return lengths
