"""Masked language modelling over pairs of segments, with next-sentence prediction (Devlin et al. 2019, section 3.1) or
sentence-order prediction (Lan et al. 2020, section 3.1)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from dist_plm.data.samples import Arrays, Pairs
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.objectives.base import LossTerm, Reader
from dist_plm.objectives.corruption.masking import Masking, masking_of, segmenter_of
from dist_plm.objectives.corruption.masking import problems as problems
from dist_plm.objectives.corruption.segment_pairs import NUM_FRAME, PairCutter, assemble
from dist_plm.objectives.corruption.word_segmenter import WordSegmenter
from dist_plm.spec.objectives.mlm_pairs import PairsConfig


@dataclass(frozen=True, slots=True)
class MaskedPairs:
    """Rows are `[CLS] first [SEP] second [SEP]`, padded to `sequence_length`."""

    config: PairsConfig
    special: SpecialTokens
    masking: Masking
    sequence_length: int
    segmenter: WordSegmenter | None = None
    source: Literal["pairs"] = "pairs"

    @property
    def kind(self) -> Literal["nsp", "sop"]:
        assert self.config.pairs is not None
        return self.config.pairs

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {"mlm": LossTerm(1.0, "labels"), self.kind: LossTerm(self.config.pair_weight, "pair_labels")}

    def window_length(self, sequence_length: int) -> int:
        return sequence_length - NUM_FRAME

    def collate(self, pairs: Pairs, /) -> Arrays:
        """See Objective.collate. Adds `segments`, `lengths` and `pair_labels`."""
        cutter = PairCutter(
            seed=self.masking.seed,
            kind=self.kind,
            max_tokens=self.window_length(self.sequence_length),
            negative_rate=self.config.negative_rate,
            short_rate=self.config.short_rate,
        )
        first, second, pair_labels = cutter(pairs)
        runs = [pairs.first] if pairs.second is None else [pairs.first, pairs.second]
        text = np.concatenate([run.tokens for run in runs])
        tokens, segments, lengths = assemble(text, first, second, self.special, self.sequence_length)
        words = None
        if self.segmenter is not None:
            numbers = np.concatenate([self.segmenter(run.tokens, run.ends) for run in runs])
            words, *_ = assemble(numbers, first, second, self.special, self.sequence_length)
        corrupted, labels = self.masking(tokens, pairs.samples, words=words)
        return {
            "tokens": corrupted,
            "labels": labels,
            "samples": pairs.samples,
            "segments": segments,
            "lengths": lengths,
            "pair_labels": pair_labels,
        }


def build(config: PairsConfig, special: SpecialTokens, seed: int, reader: Reader) -> MaskedPairs:
    masking, segmenter = masking_of(config, special, seed), segmenter_of(config, special)
    return MaskedPairs(config, replace(special, pieces=None), masking, reader.length, segmenter)
