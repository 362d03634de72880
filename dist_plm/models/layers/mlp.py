"""The feed-forward half of a layer, split over tensor ranks in its inner dimension."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dist_plm.models.layers.dropout import Site
from dist_plm.models.layers.linear import column_linear, project, row_linear
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sharding import Part


def swiglu(x: Tensor) -> Tensor:
    """Shazeer 2020, equation 6: silu of the first half times the second half of the last dim."""
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate) * up


def geglu(x: Tensor) -> Tensor:
    """Shazeer 2020, equation 5, with the tanh approximation of T5 v1.1: gelu of the first half times the second half."""
    gate, up = x.chunk(2, dim=-1)
    return functional.gelu(gate, approximate="tanh") * up


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "swiglu": swiglu,
    "geglu": geglu,
}


class MLP(nn.Module):
    def __init__(self, shared: ModelContext) -> None:
        super().__init__()
        names = ("gate", "up") if shared.model.activation in ("swiglu", "geglu") else ("up",)
        self.activation = ACTIVATIONS[shared.model.activation]
        self.recompute = shared.model.recompute == "selective"
        bias, parts = shared.model.bias, [Part(name, shared.ffn) for name in names]
        self.up = column_linear(shared, parts, site=Site.ADAPTER_UP, bias=bias)
        self.down = row_linear(shared, shared.ffn, name="down", site=Site.ADAPTER_DOWN, bias=bias)

    def forward(self, hidden: Tensor, keys: Tensor | None) -> Tensor:
        """[S', B, H] -> [S', B, H]; see `layers.linear.project` for `keys`."""
        inner = project(self.up, hidden, keys)
        if self.recompute and self.training:
            inner = checkpoint(self.activation, inner, use_reentrant=False, preserve_rng_state=False)
        else:
            inner = self.activation(inner)
        return project(self.down, inner, keys)
