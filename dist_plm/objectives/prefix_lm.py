"""Prefix language modelling (Raffel et al. 2020, section 3.2.1): a prefix is read both ways, what follows it is predicted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.randomness import random_numbers as rng
from dist_plm.core.randomness.random_numbers import Purpose
from dist_plm.data.samples import Arrays, Windows
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.objectives.base import IGNORED, LossTerm, Reader
from dist_plm.objectives.causal import positions_in_documents
from dist_plm.objectives.corruption.fill_in_the_middle import Pieces
from dist_plm.spec.objectives.prefix_lm import PrefixLmConfig


@dataclass(frozen=True, slots=True)
class PrefixLanguageModeling:
    """Makes the first 1 to n - 1 of a text's n tokens its prefix. Rows are texts, or with `document_mask` documents in them."""

    config: PrefixLmConfig
    seed: int
    source: Literal["windows"] = "windows"

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {"prefix_lm": LossTerm(1.0, "labels")}

    def window_length(self, sequence_length: int) -> int:
        return sequence_length

    def collate(self, windows: Windows, /) -> Arrays:
        """See Objective.collate. Adds `seen_from`, and `documents` and `positions` where the configuration asks for them."""
        tokens, documents, lengths = windows.tokens, windows.documents, windows.lengths
        columns = np.arange(tokens.shape[1])
        is_text = np.broadcast_to(True, tokens.shape) if lengths is None else columns < lengths[:, None]
        texts = documents if self.config.document_mask else (~is_text).astype(np.int32)
        begins, in_prefix = self._prefixes(texts, windows.samples)
        predicted = (is_text & ~in_prefix)[:, 1:]
        batch: Arrays = {
            "tokens": tokens[:, :-1],
            "labels": np.where(predicted, tokens[:, 1:], IGNORED),
            "samples": windows.samples,
            "seen_from": np.where(in_prefix, begins, columns)[:, :-1],
        }
        if self.config.document_mask:
            batch["documents"] = documents[:, :-1]
        if self.config.reset_positions:
            batch["positions"] = positions_in_documents(documents[:, :-1])
        return batch

    def _prefixes(
        self, texts: NDArray[np.int32], samples: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Finds where the text of each token begins, and whether the token is in its prefix, both [B, S + 1].

        Args:
            texts: [B, S + 1], another number for each text of a row.
        """
        pieces = Pieces.of(texts)
        keys = rng.keys(self.seed, samples, Purpose.TARGET_LENGTH)[pieces.row]
        lengths = 1 + rng.below(rng.bits(keys, pieces.index), np.maximum(pieces.length - 1, 1))
        begins, ends = (
            np.repeat(edge, pieces.length).reshape(texts.shape) for edge in (pieces.begin, pieces.begin + lengths)
        )
        return begins, np.arange(texts.shape[1]) < ends


def build(config: PrefixLmConfig, special: SpecialTokens | None, seed: int, reader: Reader) -> PrefixLanguageModeling:
    return PrefixLanguageModeling(config, seed)
