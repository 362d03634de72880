"""Encoder and decoder: T5 (Raffel et al. 2020; v1.1 after Shazeer 2020) and the original Transformer."""

import math
from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional

from dist_plm.data.loader.batch import Batch
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.layers.dropout import Site, dropout_add
from dist_plm.models.layers.embedding import Embedding, vocabulary_parts
from dist_plm.models.layers.linear import ColumnLinear
from dist_plm.models.layers.norms import build_norm
from dist_plm.models.layers.pretraining_heads import pooled_states, whole_sequence
from dist_plm.models.layers.relative import RelativeBias
from dist_plm.models.layers.transformer import LayerStack, Memory
from dist_plm.models.loss_sums import Scores
from dist_plm.models.masks import with_masks
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sequence_context import KVCache, SequenceContext, context_of
from dist_plm.spec.families.encoder_decoder import LENGTH_MULTIPLE, EncoderDecoderConfig


class EncoderDecoder(ModelChunk):
    """Reads `tokens` with the encoder and predicts `labels` one by one with the decoder, both of which share the word
    embedding; with `tied_embeddings` so does the output (Vaswani et al. 2017, section 3.4)."""

    def __init__(self, shared: ModelContext, layers: range, *, first: bool, last: bool, chunk: int | None) -> None:
        super().__init__(shared, layers, first=first, last=last, chunk=chunk)
        model = shared.model
        assert isinstance(model, EncoderDecoderConfig)
        assert model.decoder_layers is not None
        self.embedding = Embedding(shared)
        self.encoder = TransformerStack(shared, model.layers, before=0, decodes=False)
        self.decoder = TransformerStack(shared, model.decoder_layers, before=model.layers, decodes=True)
        tied = model.tied_embeddings
        self.output = ColumnLinear(
            shared, vocabulary_parts("word" if tied else "output", shared), bias=False, allocate=not tied
        )

    def forward(self, batch: Batch, cache: KVCache | None = None) -> Tensor | Scores:
        """Runs encoder and decoder on a microbatch.

        Args:
            batch: `tokens` [B, S], `decoder_tokens` [B C, T], `labels` [B C, T] (negative: not predicted), `samples` [B] on
                the host, and `lengths` [B] where rows of `tokens` are padded. C texts of a row follow each other.
            cache: what the encoder read and the decoder wrote before; `tokens` are read the first time alone.
        Returns:
            the scores of `labels`; without `labels` logits [T', B, V / P], with a cache those of the last token, [B, V / P].
        """
        if "pooled" in batch:  # what the encoder reads
            return pooled_states(whole_sequence(self._read(batch).hidden, self.shared), batch)
        if cache is None:
            tokens = batch["decoder_tokens"]
            times = len(tokens) // len(batch["tokens"])
            samples = batch["samples"].repeat_interleave(times)
            hidden = self._decode(tokens, samples, self._read(batch).repeated(times), None)
        else:
            if cache.memory is None:
                cache.memory = self._read(batch)
            hidden = self._decode(batch["decoder_tokens"], batch["samples"], cache.memory, cache)[-1]
        if self.shared.model.scales_output:
            hidden = hidden * self.shared.model.hidden**-0.5
        if "labels" not in batch:
            return self.logits(hidden)
        return self.score(hidden, batch, self.shared.own(self._padded(batch["labels"], -1)).transpose(0, 1))

    def _read(self, batch: Batch) -> Memory:
        context, positions = context_of(batch, self.shared, causal=False)
        embedded = self.embedding(self.shared.own(batch["tokens"]), positions, context, part=-1)
        return Memory(self.encoder(embedded, context), replace(context, rotary=None))

    def _decode(self, tokens: Tensor, samples: Tensor, memory: Memory, cache: KVCache | None) -> Tensor:
        """Hidden states [T', B, H] of tokens [B, T], padded where there is no cache."""
        padded = tokens if cache is not None else self._padded(tokens, 0)
        read = {"tokens": padded, "samples": samples}
        context, positions = context_of(read, self.shared, causal=True, cache=cache)
        if padded.shape[1] > tokens.shape[1]:  # a table of positions may have none for padding
            positions = positions.clamp(max=tokens.shape[1] - 1 + self.shared.model.position_offset)
        embedded = self.embedding(self.shared.own(padded), positions, context, part=-2)
        hidden = self.decoder(embedded, context, memory)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return hidden

    def _padded(self, tokens: Tensor, value: int) -> Tensor:
        """[B, T], lengthened so that ranks can slice it; what comes after changes nothing before it."""
        unit = math.lcm(LENGTH_MULTIPLE, self.shared.slices["num_slices"])
        return functional.pad(tokens, (0, -tokens.shape[1] % unit), value=value)


class TransformerStack(nn.Module):
    """The layers of one side, with their relative positions, and a norm after the last where norms come first.

    Args:
        before: layers of other stacks that come first in the numbering of dropout keys.
        decodes: whether it attends to an encoder as well, and each token only to those before it.
    """

    def __init__(self, shared: ModelContext, layers: int, *, before: int, decodes: bool) -> None:
        super().__init__()
        model = shared.model
        self.shared, self.number = shared, before + layers
        self.relative = RelativeBias(shared, both_ways=not decodes) if model.position == "relative" else None
        self.layers = LayerStack(shared, 0, layers, before=before, cross=decodes)
        self.final_norm = None
        if model.norm_placement == "pre":
            self.final_norm = build_norm(model, shared.dtype, shared.device, shared.sequence_parallel)

    def forward(self, hidden: Tensor, context: SequenceContext, memory: Memory | None = None) -> Tensor:
        """[S', B, H] -> [S', B, H]."""
        if self.relative is not None:
            context = with_masks(
                replace(context, relative=self.relative), self.shared, len(hidden) * self.shared.slices["num_slices"]
            )
        hidden = self.layers(hidden, context, memory)
        if self.final_norm is None:
            return hidden
        hidden, probability = self.final_norm(hidden), self.shared.model.hidden_dropout
        if self.training and probability > 0.0:
            keys = context.of_layer(self.number).keys
            assert keys is not None
            hidden = dropout_add(hidden, None, probability, keys[Site.STACK_OUTPUT], **self.shared.slices)
        return hidden
