"""From token numbers to hidden states: the vocabulary-parallel word embedding and the positions."""

import math

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import (
    VocabParallelEmbedding,
    reduce_from_tensor_model_parallel_region,
    scatter_to_sequence_parallel_region,
)
from torch import Tensor, nn
from torch.nn import functional

from dist_plm.models.kernels.look_up import look_up, sums_itself
from dist_plm.models.layers.dropout import Site, dropout_add
from dist_plm.models.layers.linear import filled_later
from dist_plm.models.layers.norms import build_norm
from dist_plm.models.layers.positions import sinusoidal_table
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sequence_context import SequenceContext
from dist_plm.models.sharding import Part, split_over_tensor_ranks


class Embedding(nn.Module):
    """Word embedding plus learned or sinusoidal positions plus segments, then dropout. Rotary and relative positions act
    inside attention.

    Post-norm encoders normalise the sum (Devlin et al. 2019); the original Transformer multiplies words by the root of
    their size (Vaswani et al. 2017, section 3.4).
    """

    def __init__(self, shared: ModelContext) -> None:
        super().__init__()
        model, size = shared.model, shared.embedding_size
        assert model.max_positions is not None
        positions = model.max_positions + model.position_offset
        self.shared = shared
        self.scale = math.sqrt(size) if model.scales_words else 1.0
        self.word = WordEmbedding(
            shared.padded_vocab_size,
            size,
            init_method=filled_later,
            config=shared.megatron,
            tp_group=shared.groups.tensor,
        )
        split_over_tensor_ranks(self.word.weight, 0, vocabulary_parts("word", shared))
        self.position = None
        if model.position == "learned":
            self.position = LearnedEmbedding(positions, size, shared)
        elif model.position == "sinusoidal":
            table = sinusoidal_table(positions, size)
            self.register_buffer("sinusoids", table.to(shared.device, shared.dtype), persistent=False)
        self.segment = LearnedEmbedding(model.segments, size, shared) if model.segments else None
        self.norm = None
        if model.normalises_embeddings:
            self.norm = build_norm(model, shared.dtype, shared.device, shared.sequence_parallel, size)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        context: SequenceContext,
        segments: Tensor | None = None,
        part: int = -1,
    ) -> Tensor:
        """Embeds tokens, positions and segments.

        Args:
            tokens, positions, segments: [B, S], S over context ranks.
            part: -2 of the second sequence that a model embeds; its dropout draws other masks.
        Returns:
            [S', B, embedding_size].
        """
        hidden = self.word(tokens)
        if self.scale != 1.0:
            hidden = hidden * self.scale
        if self.position is not None:
            hidden = hidden + self.position(positions)
        elif self.shared.model.position == "sinusoidal":
            hidden = hidden + functional.embedding(positions, self.get_buffer("sinusoids"))
        if self.segment is not None:
            one = segments is None or self.shared.model.segments == 1  # as RoBERTa's, which tells pairs by tokens alone
            hidden = hidden + self.segment(torch.zeros_like(tokens) if one else segments)
        hidden = hidden.transpose(0, 1).contiguous()
        if self.shared.sequence_parallel:
            hidden = scatter_to_sequence_parallel_region(hidden, group=self.shared.groups.tensor)
        if self.norm is not None:
            hidden = self.norm(hidden)
        probability = self.shared.model.hidden_dropout
        if self.training and probability > 0.0:
            keys = context.of_layer(part).keys
            assert keys is not None
            hidden = dropout_add(hidden, None, probability, keys[Site.EMBEDDING], **self.shared.slices)
        return hidden


class WordEmbedding(VocabParallelEmbedding):
    """Megatron-core's, the rows split over tensor ranks, with exact gradients on the CPU."""

    def forward(self, input_: Tensor) -> Tensor:
        """[B, S] -> [B, S, embedding_size]."""
        if not sums_itself(self.weight, input_.numel()):
            return super().forward(input_)
        group: dist.ProcessGroup = self.tp_group  # pyright: ignore[reportAssignmentType]  # declared by its default
        if group.size() == 1:
            return look_up(input_, self.weight)
        local = input_ - self.vocab_start_index
        absent = (local < 0) | (local >= len(self.weight))
        rows = look_up(local.masked_fill(absent, 0), self.weight).masked_fill(absent[..., None], 0.0)
        return reduce_from_tensor_model_parallel_region(rows, group=group)


class LearnedEmbedding(nn.Module):
    """A learned vector for each position or segment."""

    def __init__(self, length: int, size: int, shared: ModelContext) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length, size, dtype=shared.dtype, device=shared.device))

    def forward(self, numbers: Tensor) -> Tensor:
        return look_up(numbers, self.weight)


def vocabulary_parts(name: str, shared: ModelContext) -> tuple[Part, ...]:
    """The rows of a matrix over the vocabulary: those past the last token are padding."""
    return (Part(name, shared.padded_vocab_size, shared.padded_vocab_size - shared.vocab_size),)
