"""Dropout whose mask is a pure function of (seed, sample, layer, site), never of rank, micro-batch or what ran before.

The same run therefore drops the same activations on every process grid, a resumed run continues exactly, and activation
recomputation needs no bookkeeping of random states. A rank that holds a slice of the sequence (sequence parallelism) or of
the heads (tensor parallelism) draws the sample's mask and keeps its slice.
"""

from enum import IntEnum

import torch
from torch import Tensor

from dist_plm.core.random import key
from dist_plm.models.sequence_context import SequenceContext


class Site(IntEnum):
    """The places of a layer where dropout acts; part of the key, so the numbers are fixed for ever."""

    EMBEDDING = 0
    ATTENTION_SCORES = 1
    ATTENTION_OUTPUT = 2
    MLP_OUTPUT = 3
    CROSS_SCORES = 4
    CROSS_OUTPUT = 5
    STACK_OUTPUT = 6
    REPLACEMENT = 7  # ELECTRA's draws of tokens


def generator_for(context: SequenceContext, row: int, layer: int, site: Site, device: torch.device, part: int = 0):
    """The generator of one sample (row of the microbatch) at one place; `part` numbers heads, or blocks of them."""
    generator = torch.Generator(device=device)
    generator.manual_seed(key(context.seed, context.samples[row], layer, int(site), part))
    return generator


def hidden_dropout(
    hidden: Tensor,
    probability: float,
    context: SequenceContext,
    layer: int,
    site: Site,
    *,
    slice_index: int,
    num_slices: int,
) -> Tensor:
    """Drops elements of hidden states and scales the rest by 1 / (1 - probability).

    Args:
        hidden: [S / num_slices, B, H], slice `slice_index` of the sequence.
        layer: number of the layer within the whole model; -1 for the embedding.
    """
    length, batch, width = hidden.shape
    keep = torch.empty(hidden.shape, dtype=torch.bool, device=hidden.device)
    first = slice_index * length
    for row in range(batch):
        generator = generator_for(context, row, layer, site, hidden.device)
        drawn = torch.rand(length * num_slices, width, generator=generator, device=hidden.device)
        keep[:, row] = drawn[first : first + length] >= probability
    return hidden * keep / (1.0 - probability)


def score_dropout(
    scores: Tensor,
    probability: float,
    context: SequenceContext,
    layer: int,
    site: Site = Site.ATTENTION_SCORES,
    *,
    first_head: int,
    block: int,
) -> Tensor:
    """Drops attention probabilities of one block of query rows.

    Args:
        scores: [B, A, Q, K] after the softmax; A are this rank's heads, the first of which is `first_head` of the model.
        block: number of the block of query rows.
    """
    keep = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    for row in range(scores.shape[0]):
        for head in range(scores.shape[1]):
            part = (first_head + head) * 2**20 + block
            generator = generator_for(context, row, layer, site, scores.device, part)
            keep[row, head] = torch.rand(scores.shape[2:], generator=generator, device=scores.device) >= probability
    return scores * keep / (1.0 - probability)
