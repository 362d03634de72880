"""Holds what the last stage of a model says of the labels of a microbatch."""

from typing import NamedTuple

from torch import Tensor


class TermScores(NamedTuple):
    """Sums over the entries of one array of labels that are predicted.

    Args:
        loss: negative log-likelihood, [] fp32.
        correct: how many were the most likely, [], in evaluation alone.
        outputs: what was predicted of each sample, in evaluation alone: logits [B, L], [B, S, L], or of spans [B, S]; None of
            tokens of a vocabulary.
    """

    loss: Tensor
    correct: Tensor | None
    outputs: Tensor | None = None


#: By the name of the array in the batch whose entries are predicted (objectives.base.LossTerm.over).
Scores = dict[str, TermScores]
