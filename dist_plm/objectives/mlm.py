"""Masked language modelling over windows of text (Devlin et al. 2019, section 3.1; Liu et al. 2019, section 4.1, whose
masking anew at every epoch comes of itself here: a text seen again is another sample)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_plm.data.samples import Arrays, Windows
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.objectives.base import LossTerm, Reader
from dist_plm.objectives.causal import positions_in_documents
from dist_plm.objectives.corruption.add_special_tokens import AddSpecialTokens, Framed
from dist_plm.objectives.corruption.masking import Masking, masking_of, segmenter_of
from dist_plm.objectives.corruption.masking import problems as problems
from dist_plm.objectives.corruption.word_segmenter import WordSegmenter
from dist_plm.spec.objectives.mlm import MlmConfig
from dist_plm.spec.objectives.rtd import RtdConfig


@dataclass(frozen=True, slots=True)
class MaskedLanguageModeling:
    """A window is framed as `[CLS] … [SEP]`, as far as the tokenizer has these tokens. With `document_mask` tokens
    attend within their document alone, and where whole documents are packed each of them is framed; with `reset_positions`
    positions start again at each document."""

    config: MlmConfig | RtdConfig
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

    def _collate(self, windows: Windows) -> tuple[Arrays, Framed]:
        """The microbatch, and its rows before corruption."""
        rows = AddSpecialTokens(self.special)(windows, self._words(windows))
        corrupted, labels = self.masking(rows.tokens, windows.samples, documents=rows.documents, words=rows.words)
        batch: Arrays = {"tokens": corrupted, "labels": labels, "samples": windows.samples}
        if rows.lengths is not None and not self.config.document_mask:
            batch["lengths"] = rows.lengths
        if self.config.document_mask:
            batch["documents"] = rows.documents
        if self.config.reset_positions:
            batch["positions"] = positions_in_documents(rows.documents)
        return batch, rows

    def _words(self, windows: Windows) -> NDArray[np.int64] | None:
        rows, length = windows.tokens.shape
        if self.segmenter is None:
            return None
        return self.segmenter(windows.tokens.reshape(-1), length * np.arange(1, rows + 1)).reshape(rows, length)


def build(config: MlmConfig, special: SpecialTokens, seed: int, reader: Reader) -> MaskedLanguageModeling:
    masking, segmenter = masking_of(config, special, seed), segmenter_of(config, special)
    return MaskedLanguageModeling(config, replace(special, pieces=None), masking, segmenter)
