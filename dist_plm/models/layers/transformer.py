"""A transformer layer, and the stack of them that one model chunk holds."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dist_plm.models.kernels.attention import KeyRanges
from dist_plm.models.layers.attention import CrossAttention, SelfAttention
from dist_plm.models.layers.dropout import Site, dropout_add
from dist_plm.models.layers.mlp import MLP
from dist_plm.models.layers.norms import build_norm
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sequence_context import SequenceContext


class Memory(NamedTuple):
    """Holds what a decoder attends to: the encoder's output [S', B, H], and the context of its tokens in rows [B C], where the
    decoder writes C texts of each."""

    hidden: Tensor
    context: SequenceContext

    def repeated(self, times: int) -> "Memory":
        """Gives it for a decoder that writes so many texts of each row: the output as it is, of which keys and values are made
        once."""
        if times == 1:
            return self
        context = self.context
        lengths, bias = (
            one if one is None or len(one) == 1 else one.repeat_interleave(times, dim=0)
            for one in (context.lengths, context.bias)
        )
        ranges = context.ranges
        if ranges is not None:
            ranges = KeyRanges(*(one.repeat_interleave(times, dim=1) for one in ranges))
        return Memory(self.hidden, replace(context, lengths=lengths, bias=bias, ranges=ranges))


class TransformerLayer(nn.Module):
    """Each half adds its output to the residual stream of [S', B, H]. Norms stand before each half (Xiong et al. 2020), or
    after each sum as first published (Vaswani et al. 2017, section 3.1).

    Args:
        cross: whether it has a third half between the two, which attends to an encoder.
    """

    def __init__(self, shared: ModelContext, *, cross: bool = False) -> None:
        super().__init__()
        norm = (shared.model, shared.dtype, shared.device, shared.sequence_parallel)
        self.dropout = shared.model.hidden_dropout
        self.slices = shared.slices
        self.norm_first = shared.model.norm_placement == "pre"
        self.attention_norm = build_norm(*norm)
        self.attention = SelfAttention(shared)
        self.cross_norm = build_norm(*norm) if cross else None
        self.cross = CrossAttention(shared) if cross else None
        self.mlp_norm = build_norm(*norm)
        self.mlp = MLP(shared)

    def forward(self, hidden: Tensor, context: SequenceContext, memory: Memory | None = None) -> Tensor:
        """Runs the layer over [S', B, H].

        Args:
            context: with the keys of this layer.
        """

        def attend(x: Tensor) -> Tensor:
            return self.attention(x, context)

        def feed_forward(x: Tensor) -> Tensor:
            return self.mlp(x, context.keys)

        hidden = self._half(hidden, self.attention_norm, attend, context, Site.ATTENTION_OUTPUT)
        if self.cross is not None:
            assert self.cross_norm is not None
            hidden = self._half(hidden, self.cross_norm, self._look_up(memory, context), context, Site.CROSS_OUTPUT)
        return self._half(hidden, self.mlp_norm, feed_forward, context, Site.MLP_OUTPUT)

    def _look_up(self, memory: Memory | None, context: SequenceContext) -> Callable[[Tensor], Tensor]:
        cross = self.cross
        assert cross is not None
        assert memory is not None
        seen = replace(memory.context, keys=context.keys, kept=context.kept)
        return lambda x: cross(x, memory.hidden, seen)

    def _half(
        self, hidden: Tensor, norm: nn.Module, half: Callable[[Tensor], Tensor], context: SequenceContext, site: Site
    ) -> Tensor:
        if self.norm_first:
            return self._add(hidden, half(norm(hidden)), context, site)
        return norm(self._add(hidden, half(hidden), context, site))

    def _add(self, residual: Tensor, hidden: Tensor, context: SequenceContext, site: Site) -> Tensor:
        if not self.training or self.dropout == 0.0:
            return residual + hidden
        assert context.keys is not None
        return dropout_add(hidden, residual, self.dropout, context.keys[site], **self.slices)


class LayerStack(nn.Module):
    """The layers [first, stop) of the model. They are keyed by their number in the whole model, so that a parameter's
    name says which layer it is of on every pipeline stage.

    Args:
        before: layers of other stacks that come before these in the numbering of dropout keys.
        cross: whether the layers attend to an encoder as well.
    """

    def __init__(self, shared: ModelContext, first: int, stop: int, *, before: int = 0, cross: bool = False) -> None:
        super().__init__()
        self.recompute = shared.model.recompute == "full"
        self.numbers = range(before + first, before + stop)
        for layer in range(first, stop):
            self.add_module(str(layer), TransformerLayer(shared, cross=cross))

    def __iter__(self) -> Iterator[nn.Module]:
        """Megatron-core's schedules go through the layers of whatever a model calls its decoder."""
        return self.children()

    def forward(self, hidden: Tensor, context: SequenceContext, memory: Memory | None = None) -> Tensor:
        for layer, number in zip(self, self.numbers, strict=True):
            own = context.of_layer(number)
            if self.recompute and self.training:
                hidden = checkpoint(layer, hidden, own, memory, use_reentrant=False, preserve_rng_state=False)
            else:
                hidden = layer(hidden, own, memory)
        return hidden
