"""Replaced-token detection (Clark et al. 2020, ELECTRA, section 3): the masking that its generator fills in."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dist_plm.data.samples import Arrays, Windows
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.objectives.base import IGNORED, LossTerm, Reader
from dist_plm.objectives.corruption.masking import masking_of, segmenter_of
from dist_plm.objectives.corruption.masking import problems as problems
from dist_plm.objectives.mlm import MaskedLanguageModeling
from dist_plm.spec.objectives.rtd import RtdConfig


@dataclass(frozen=True, slots=True)
class ReplacedTokenDetection(MaskedLanguageModeling):
    """The generator predicts `labels` from `tokens`, where all that is predicted is [MASK]. The discriminator sees
    `tokens` with the generator's samples in these places, and tells of every token whether it differs from `originals`:
    a sample that happens to be right counts as original. Like any labels `originals` may be IGNORED in places."""

    config: RtdConfig

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {
            "generator": LossTerm(1.0, "labels"),
            "discriminator": LossTerm(self.config.discriminator_weight, "originals"),
        }

    def collate(self, windows: Windows, /) -> Arrays:
        """See Objective.collate. Adds `originals`, and what masked language modelling adds."""
        batch, rows = self._collate(windows)
        originals = rows.tokens
        if rows.lengths is not None:
            originals = np.where(np.arange(originals.shape[1]) < rows.lengths[:, None], originals, IGNORED)
        return {**batch, "originals": originals}


def build(config: RtdConfig, special: SpecialTokens, seed: int, reader: Reader) -> ReplacedTokenDetection:
    masking, segmenter = masking_of(config, special, seed), segmenter_of(config, special)
    return ReplacedTokenDetection(config, replace(special, pieces=None), masking, segmenter)
