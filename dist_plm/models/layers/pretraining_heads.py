"""Puts heads on top of an encoder: the prediction of masked tokens, and of sentence pairs.

Both work on all that tensor ranks hold of a sequence: only some positions matter to them, wherever these lie among the slices
of sequence parallelism. Every tensor rank does the same work on them, so the gradients of their parameters are whole. Context
ranks each predict their own tokens, and the first has the one that stands for a pair.
"""

import torch
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from torch import Tensor, nn
from torch.nn import functional

from dist_plm.data.loader.batch import Batch
from dist_plm.models.layers.context_parallel import whole_context
from dist_plm.models.layers.linear import Dense
from dist_plm.models.layers.norms import build_norm
from dist_plm.models.model_context import ModelContext


def whole_sequence(hidden: Tensor, shared: ModelContext) -> Tensor:
    """[S', B, H] -> [S, B, H]. What follows must give every tensor rank the same gradient of the result, and context ranks
    their shares of it."""
    return whole_context(joined_slices(hidden, shared), shared)


def joined_slices(hidden: Tensor, shared: ModelContext) -> Tensor:
    """[S', B, H] -> [S / C, B, H], of C context ranks. What follows must give every tensor rank the same gradient of the
    result."""
    if not shared.sequence_parallel:
        return hidden
    return gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=False, group=shared.groups.tensor)


def predicted_positions(labels: Tensor) -> Tensor:
    """Finds where something is predicted, [N], in the order of the flattened [S, B].

    To be asked of this context rank's labels, and on the host: how many there are, a device has to be waited for.

    Args:
        labels: [B, S], negative where nothing is predicted.
    """
    return (labels.transpose(0, 1).reshape(-1) >= 0).nonzero()[:, 0]


def predicted(hidden: Tensor, batch: Batch, shared: ModelContext) -> tuple[Tensor, Tensor]:
    """Picks what has a label: hidden states [N, H] and labels [N], in the order of `predicted_positions`.

    Args:
        hidden: [S / C, B, H].
        batch: `labels`, and `positions_predicted` where an engine has told them.
    """
    labels = shared.own(batch["labels"]).transpose(0, 1).reshape(-1)
    positions = positions_of(batch, shared)
    return hidden.flatten(0, 1).index_select(0, positions), labels.index_select(0, positions)


def predicted_states(hidden: Tensor, batch: Batch, shared: ModelContext) -> Tensor:
    """Picks the hidden states [N, H], of [S / C, B, H], of the places where a batch predicts something."""
    return hidden.flatten(0, 1).index_select(0, positions_of(batch, shared))


def pooled_states(hidden: Tensor, batch: Batch) -> Tensor:
    """Gives one vector of each row, [B, H] fp32: its hidden states, of [S, B, H], weighted by `pooled` [B, S] and added up."""
    return torch.einsum("sbh,bs->bh", hidden.float(), batch["pooled"])


def positions_of(batch: Batch, shared: ModelContext) -> Tensor:
    """Gives `predicted_positions` of a batch."""
    told = batch.get("positions_predicted")
    return told if told is not None else predicted_positions(shared.own(batch["labels"]))


class TokenTransform(nn.Module):
    """Dense layer, GELU and norm before the tied decoder (Devlin et al. 2019, appendix A; `transform` in their code)."""

    def __init__(self, shared: ModelContext) -> None:
        super().__init__()
        self.dense = Dense(shared, shared.model.hidden, shared.embedding_size)
        self.norm = build_norm(shared.model, shared.dtype, shared.device, False, shared.embedding_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, H] -> [N, embedding_size]."""
        return self.norm(functional.gelu(self.dense(hidden)))


class Pooler(nn.Module):
    """Makes one vector of a sequence: what a dense layer gives of its first token (Devlin et al. 2019)."""

    def __init__(self, shared: ModelContext) -> None:
        super().__init__()
        self.pooler = Dense(shared, shared.model.hidden, shared.model.hidden)

    def pool(self, hidden: Tensor) -> Tensor:
        """[..., H] of first tokens -> [..., H]."""
        return torch.tanh(self.pooler(hidden))


class PairHead(Pooler):
    """Pooler and classifier of sentence pairs (Devlin et al. 2019, section 3.1, task 2)."""

    def __init__(self, shared: ModelContext) -> None:
        super().__init__(shared)
        self.classifier = Dense(shared, shared.model.hidden, 2)

    def forward(self, hidden: Tensor) -> Tensor:
        """[S, B, H] -> logits [B, 2] of the first token."""
        return self.classifier(self.pool(hidden[0]))
