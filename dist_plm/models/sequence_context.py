"""Holds what every layer must know of a microbatch besides its hidden states, the keys of its dropout among it.

It travels as one argument through the layers, so activation recomputation sees the values of its own microbatch: under a
pipeline schedule another microbatch has run in between.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.device import sent
from dist_plm.models.kernels.attention import KeyRanges
from dist_plm.models.layers.dropout import draws_masks, key_table, keys_of_layer
from dist_plm.models.layers.positions import rotary_tables
from dist_plm.models.masks import with_masks
from dist_plm.models.model_context import ModelContext
from dist_plm.spec.schema import ModelConfig

if TYPE_CHECKING:
    from dist_plm.models.layers.transformer import Memory


class LayerCache:
    """Holds what one layer keeps of the tokens that were read, so that a decoder reads on without reading them again.

    Attributes:
        memory: keys and values [S, B, 2 A D] that it made of the encoder's output, once it has.
    """

    def __init__(self, capacity: int) -> None:
        self.memory: Tensor | None = None
        self._capacity = capacity
        self._key: Tensor | None = None
        self._value: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor, past: int) -> tuple[Tensor, Tensor]:
        """Puts keys and values [B, A, S, D] behind the `past` tokens before them; returns those of all."""
        if self._key is None or self._value is None:
            rows, heads, _, size = key.shape
            self._key, self._value = (key.new_empty(rows, heads, self._capacity, size) for _ in range(2))
        stop = past + key.shape[2]
        self._key[:, :, past:stop], self._value[:, :, past:stop] = key, value
        return self._key[:, :, :stop], self._value[:, :, :stop]

    def reorder(self, rows: Tensor) -> None:
        """Goes on with these rows [B] in place of those before."""
        if self._key is not None and self._value is not None:
            self._key, self._value = self._key[rows], self._value[rows]


class KVCache:
    """Holds what the layers of one rank keep of the rows of a batch.

    Args:
        capacity: tokens of a row that there is room for.

    Attributes:
        length: tokens that were read.
        memory: the encoder's output, where there is an encoder.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.length = capacity, 0
        self.memory: Memory | None = None
        self._layers: dict[int, LayerCache] = {}

    def layer(self, number: int) -> LayerCache:
        """Gives what layer `number` of the whole model keeps."""
        return self._layers.setdefault(number, LayerCache(self.capacity))

    def reorder(self, rows: Tensor) -> None:
        """Goes on with these rows [B] in place of those before, which an encoder reads the same for."""
        for layer in self._layers.values():
            layer.reorder(rows)

    def advance(self, tokens: int) -> None:
        """Counts tokens that all layers have read."""
        self.length += tokens
        assert self.length <= self.capacity


@dataclass(frozen=True, slots=True)
class SequenceContext:
    """Holds what every layer must know of a microbatch.

    Args:
        causal: a token attends to itself and to what stands before it, and to nothing else.
        seen_from: [B, S] the first token that attends to each token, itself or one before it, non-decreasing along S; all
            after that do as well. Or None: `causal` tells.
        documents: [B, S] number of the document each token belongs to, non-decreasing along S, or None for no boundaries.
        lengths: [B] tokens of each row before its padding, or None where rows are full.
        rotary: (cos, sin), each [1 or B, S, D], or None.
        relative: gives what is added to the scores of query rows [Q] and key columns [K], as [1, A, Q, K], or None.
        window: tokens on each side that a token attends to, 0 for all; the first `global_tokens` attend to all, and all to
            them (Beltagy et al. 2020, section 3.1).
        bias: what is added to the scores of all query rows and keys on account of all the above, [1 or B, 1 or A, 1 or S, S],
            or None where that is nothing or too large to be held; see `masks.with_masks`.
        ranges: of keys that queries see on account of all the above but `relative`, which `bias` then holds alone; or None.
        keys: what dropout draws from, of all layers (`dropout.key_table`) or [sites, B] of the one at hand; None where nothing
            is dropped.
        cache: holds the tokens before these, which then see them as well; `documents` and `seen_from` are of all of
            them, and `global_tokens` the first of the last document: what stands before it is padding.
        kept: the part of it that the layer at hand keeps.
    """

    causal: bool
    seen_from: Tensor | None = None
    documents: Tensor | None = None
    lengths: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    relative: Callable[[Tensor, Tensor], Tensor] | None = None
    window: int = 0
    global_tokens: int = 0
    bias: Tensor | None = None
    ranges: KeyRanges | None = None
    keys: Tensor | None = None
    cache: KVCache | None = None
    kept: LayerCache | None = None

    def of_layer(self, layer: int) -> "SequenceContext":
        """Takes the keys of one layer, by its number within the whole model; -1 and -2 are embeddings."""
        if self.keys is None and self.cache is None:
            return self
        keys = None if self.keys is None else keys_of_layer(self.keys, layer)
        return replace(self, keys=keys, kept=None if self.cache is None else self.cache.layer(layer))

    @property
    def is_plain(self) -> bool:
        """Nothing but causality restricts or shifts the scores."""
        masks = (self.seen_from, self.documents, self.lengths, self.relative)
        return self.window == 0 and all(mask is None for mask in masks)


def context_of(
    batch: Batch, shared: ModelContext, *, causal: bool, cache: KVCache | None = None
) -> tuple[SequenceContext, Tensor]:
    """The context of a microbatch's `tokens`, and the positions [1 or B, S / C] of those that this rank has.

    Args:
        batch: `tokens` [B, S], `samples` [B] on the host, and where they apply `seen_from` [B, S], `documents` [B, S],
            `positions` [B, S] and `lengths` [B].
        causal: where the batch does not tell otherwise by `seen_from`.
        cache: of the tokens before these.
    """
    tokens, model = batch["tokens"], shared.model
    positions = batch.get("positions")
    if positions is None:
        past = 0 if cache is None else cache.length
        positions = torch.arange(past, past + tokens.shape[1], device=tokens.device)[None]
    rotary = None
    if model.position == "rotary":
        assert model.head_size is not None
        rotary = rotary_tables(positions, model.head_size, model.rotary_base)
    context = SequenceContext(
        causal=causal and "seen_from" not in batch,
        seen_from=batch.get("seen_from"),
        documents=batch.get("documents"),
        # To the right of a token it changes nothing.
        lengths=None if causal else batch.get("lengths"),
        rotary=rotary,
        window=model.window,
        global_tokens=model.global_tokens,
        keys=_keys(batch["samples"], model, shared.seed, tokens.device),
        cache=cache,
    )
    return with_masks(context, shared, tokens.shape[1]), shared.own(positions + model.position_offset)


def _keys(samples: Tensor, model: ModelConfig, seed: int, device: torch.device) -> Tensor | None:
    if not draws_masks(model):
        return None
    table = key_table(model, samples, seed)
    return sent(table, device)
