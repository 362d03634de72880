"""From token numbers to hidden states: the vocabulary-parallel word embedding and the positions."""

import torch
from megatron.core.tensor_parallel import VocabParallelEmbedding, scatter_to_sequence_parallel_region
from torch import Tensor, nn
from torch.nn import functional

from dist_plm.models.context import SequenceContext
from dist_plm.models.dropout import Site, hidden_dropout
from dist_plm.models.layout import Part, split_over_tensor_ranks
from dist_plm.models.linear import filled_later
from dist_plm.models.positions import sinusoidal_table
from dist_plm.models.shape import Shape


class Embedding(nn.Module):
    """Word embedding plus learned or sinusoidal positions, then dropout. Rotary positions act inside attention."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        model = shape.model
        assert model.max_positions is not None
        self.shape = shape
        self.word = VocabParallelEmbedding(
            shape.padded_vocab_size,
            model.hidden,
            init_method=filled_later,
            config=shape.megatron,
            tp_group=shape.groups.tensor,
        )
        split_over_tensor_ranks(self.word.weight, 0, vocabulary_parts("word", shape))
        self.position = None
        if model.position == "learned":
            self.position = Positions(model.max_positions, model.hidden, shape.dtype, shape.device)
        elif model.position == "sinusoidal":
            table = sinusoidal_table(model.max_positions, model.hidden)
            self.register_buffer("sinusoids", table.to(shape.device, shape.dtype), persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor, context: SequenceContext) -> Tensor:
        """Args:
            tokens, positions: [B, S].
        Returns:
            [S', B, H].
        """
        hidden = self.word(tokens)
        if self.position is not None:
            hidden = hidden + self.position(positions)
        elif self.shape.model.position == "sinusoidal":
            hidden = hidden + functional.embedding(positions, self.get_buffer("sinusoids"))
        hidden = hidden.transpose(0, 1).contiguous()
        if self.shape.sequence_parallel:
            hidden = scatter_to_sequence_parallel_region(hidden, group=self.shape.groups.tensor)
        probability = self.shape.model.hidden_dropout
        if self.training and probability > 0.0:
            hidden = hidden_dropout(hidden, probability, context, -1, Site.EMBEDDING, **self.shape.slices)
        return hidden


class Positions(nn.Module):
    """A learned vector for each position."""

    def __init__(self, length: int, hidden: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(length, hidden, dtype=dtype, device=device))

    def forward(self, positions: Tensor) -> Tensor:
        return functional.embedding(positions, self.weight)


def vocabulary_parts(name: str, shape: Shape) -> tuple[Part, ...]:
    """The rows of a matrix over the vocabulary: those past the last token are padding."""
    return (Part(name, shape.padded_vocab_size, shape.padded_vocab_size - shape.vocab_size),)
