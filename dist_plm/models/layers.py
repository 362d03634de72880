"""A transformer layer, and the stack of them that one model chunk holds."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dist_plm.models.attention import SelfAttention
from dist_plm.models.context import SequenceContext
from dist_plm.models.dropout import Site, hidden_dropout
from dist_plm.models.mlp import MLP
from dist_plm.models.norms import build_norm
from dist_plm.models.shape import Shape


class TransformerLayer(nn.Module):
    """Pre-norm layer (Xiong et al. 2020): each half adds its output to the residual stream of [S', B, H]."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        norm = (shape.model, shape.dtype, shape.device, shape.sequence_parallel)
        self.layer = layer
        self.dropout = shape.model.hidden_dropout
        self.slices = shape.slices
        self.attention_norm = build_norm(*norm)
        self.attention = SelfAttention(shape, layer)
        self.mlp_norm = build_norm(*norm)
        self.mlp = MLP(shape)

    def forward(self, hidden: Tensor, context: SequenceContext) -> Tensor:
        mixed = self.attention(self.attention_norm(hidden), context)
        hidden = hidden + self._drop(mixed, context, Site.ATTENTION_OUTPUT)
        return hidden + self._drop(self.mlp(self.mlp_norm(hidden)), context, Site.MLP_OUTPUT)

    def _drop(self, hidden: Tensor, context: SequenceContext, site: Site) -> Tensor:
        if not self.training or self.dropout == 0.0:
            return hidden
        return hidden_dropout(hidden, self.dropout, context, self.layer, site, **self.slices)


class LayerStack(nn.Module):
    """The layers [first, stop) of the model. They are keyed by their number in the whole model, so that a parameter's
    name says which layer it is of on every pipeline stage."""

    def __init__(self, shape: Shape, first: int, stop: int) -> None:
        super().__init__()
        self.recompute = shape.model.recompute == "full"
        for layer in range(first, stop):
            self.add_module(str(layer), TransformerLayer(shape, layer))

    def forward(self, hidden: Tensor, context: SequenceContext) -> Tensor:
        for layer in self.children():
            if self.recompute and self.training:
                hidden = checkpoint(layer, hidden, context, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden = layer(hidden, context)
        return hidden


def layers_of_chunk(num_layers: int, stage: int, stages: int, chunk: int, chunks: int) -> range:
    """Layers that model chunk `chunk` of pipeline rank `stage` holds: chunks go round the ranks (Narayanan et al. 2021,
    section 2.2), so chunk 0 of every rank comes before chunk 1 of any.

    Args:
        stages, chunks: number of pipeline ranks, and of chunks each holds; their product divides `num_layers`.
    """
    each = num_layers // (stages * chunks)
    first = (chunk * stages + stage) * each
    return range(first, first + each)
