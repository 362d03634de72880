"""Causal language modelling: every token is predicted from those before it (Radford et al. 2018, equation 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.samples import Arrays, Windows
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.objectives.base import IGNORED, LossTerm, Reader
from dist_plm.objectives.corruption.fill_in_the_middle import FillInTheMiddle
from dist_plm.spec.objectives.causal import CausalConfig


@dataclass(frozen=True, slots=True)
class CausalLanguageModeling:
    """With `document_mask` tokens attend within their document alone, and a document's first token is not predicted
    from the document before it; with `reset_positions` positions start again at each document. With `middle` some
    documents are rearranged first, so that the model learns to fill in."""

    config: CausalConfig
    middle: FillInTheMiddle | None = None
    source: Literal["windows"] = "windows"

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {"causal": LossTerm(1.0, "labels")}

    def window_length(self, sequence_length: int) -> int:
        return sequence_length

    def collate(self, windows: Windows, /) -> Arrays:
        """See Objective.collate. Adds `documents` and `positions` where the configuration asks for them."""
        tokens, documents = windows.tokens, windows.documents
        if self.middle is not None:
            tokens, documents = self.middle(tokens, documents, windows.samples)
        batch: Arrays = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:], "samples": windows.samples}
        if self.config.document_mask:
            batch["documents"] = documents[:, :-1]
            crosses = documents[:, 1:] != documents[:, :-1]
            batch["labels"] = np.where(crosses, IGNORED, batch["labels"])
        if self.config.reset_positions:
            batch["positions"] = positions_in_documents(documents[:, :-1])
        if windows.lengths is not None:
            is_text = np.arange(1, tokens.shape[1]) < windows.lengths[:, None]
            batch["labels"] = np.where(is_text, batch["labels"], IGNORED)
        return batch


def positions_in_documents(documents: NDArray[np.int32]) -> NDArray[np.int64]:
    """Position of each token within its document.

    Args:
        documents: [B, S], non-decreasing along S.
    Returns:
        [B, S], zero at every document's first token.
    """
    index = np.broadcast_to(np.arange(documents.shape[1]), documents.shape)
    begins = np.zeros(documents.shape, dtype=bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return index - np.maximum.accumulate(np.where(begins, index, 0), axis=1)


def build(
    config: CausalConfig, special: SpecialTokens | None, seed: int | None, reader: Reader
) -> CausalLanguageModeling:
    if config.fim_rate == 0:
        return CausalLanguageModeling(config)
    assert special is not None
    assert seed is not None
    return CausalLanguageModeling(config, FillInTheMiddle(seed, config.fim_rate, config.fim_spm_rate, special))
