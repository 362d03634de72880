"""Holds what every layer must know of a microbatch besides its hidden states, the keys of its dropout among it.

It travels as one argument through the layers, so activation recomputation sees the values of its own microbatch: under a
pipeline schedule another microbatch has run in between.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.device import sent
from dist_plm.models.layers.dropout import draws_masks, key_table, keys_of_layer
from dist_plm.models.layers.positions import rotary_tables
from dist_plm.models.masks import with_bias
from dist_plm.models.model_context import Shape
from dist_plm.spec.schema import ModelConfig


@dataclass(frozen=True, slots=True)
class SequenceContext:
    """Holds what every layer must know of a microbatch.

    Args:
        causal: a token attends to itself and to what stands before it.
        documents: [B, S] number of the document each token belongs to, non-decreasing along S, or None for no boundaries.
        lengths: [B] tokens of each row before its padding, or None where rows are full.
        rotary: (cos, sin), each [1 or B, S, D], or None.
        relative: gives what is added to the scores of query rows [Q] and key columns [K], as [1, A, Q, K], or None.
        window: tokens on each side that a token attends to, 0 for all; the first `global_tokens` attend to all, and all to
            them (Beltagy et al. 2020, section 3.1).
        bias: what is added to the scores of all query rows and keys on account of all the above, [1 or B, 1 or A, 1 or S, S],
            or None where that is nothing or too large to be held; see `masks.with_bias`.
        keys: what dropout draws from, of all layers (`dropout.key_table`) or [sites, B] of the one at hand; None where nothing
            is dropped.
    """

    causal: bool
    documents: Tensor | None = None
    lengths: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    relative: Callable[[Tensor, Tensor], Tensor] | None = None
    window: int = 0
    global_tokens: int = 0
    bias: Tensor | None = None
    keys: Tensor | None = None

    def of_layer(self, layer: int) -> "SequenceContext":
        """Takes the keys of one layer, by its number within the whole model; -1 and -2 are embeddings."""
        return self if self.keys is None else replace(self, keys=keys_of_layer(self.keys, layer))

    @property
    def is_plain(self) -> bool:
        """Nothing but causality restricts or shifts the scores."""
        return self.documents is None and self.lengths is None and self.relative is None and self.window == 0


def context_of(batch: Batch, shape: Shape, *, causal: bool) -> tuple[SequenceContext, Tensor]:
    """The context of a microbatch's `tokens`, and their positions [1 or B, S].

    Args:
        batch: `tokens` [B, S], `samples` [B] on the host, and where they apply `documents` [B, S], `positions` [B, S] and
            `lengths` [B].
    """
    tokens, model = batch["tokens"], shape.model
    positions = batch.get("positions")
    if positions is None:
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
    rotary = None
    if model.position == "rotary":
        assert model.head_size is not None
        rotary = rotary_tables(positions, model.head_size, model.rotary_base)
    context = SequenceContext(
        causal=causal,
        documents=batch.get("documents"),
        lengths=batch.get("lengths"),
        rotary=rotary,
        window=model.window,
        global_tokens=model.global_tokens,
        keys=_keys(batch["samples"], model, shape.seed, tokens.device),
    )
    return with_bias(context, shape, tokens.shape[1]), positions + model.position_offset


def _keys(samples: Tensor, model: ModelConfig, seed: int, device: torch.device) -> Tensor | None:
    if not draws_masks(model):
        return None
    table = key_table(model, samples, seed)
    return sent(table, device)
