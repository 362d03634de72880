"""Initial weights that depend on the seed and on a tensor's canonical name alone, so every process grid starts alike.

Each logical tensor is drawn in blocks of rows from a generator on the host keyed by (seed, name, block); a rank draws the
blocks it holds part of and keeps its part. The values are the same on CPU and CUDA.
"""

import math
from collections.abc import Iterable

import torch

from dist_plm.core.random import key
from dist_plm.models.sharding import Layout, Piece
from dist_plm.spec.schema import ModelConfig

BLOCK_NUMEL = 2**20
#: Projections that write into the residual stream; their deviation shrinks with depth (Radford et al. 2019, section 2.3).
RESIDUAL_PROJECTIONS = ("attention.output.weight", "mlp.down.weight")


@torch.no_grad()
def initialize(layouts: Iterable[Layout], model: ModelConfig, seed: int) -> None:
    """Fills all parameters in place: norm weights 1, biases and vocabulary padding 0, matrices from N(0, init_std²), those
    that project into the residual stream of a pre-norm model with deviation init_std / sqrt(2 layers). T5 has its own."""
    for layout in layouts:
        layout.parameter.zero_()
        for piece in layout.pieces:
            if piece.numel == 0 or piece.name.endswith("bias"):
                continue
            if "norm" in piece.name:
                piece.local(layout.parameter).fill_(1.0)
            else:
                _draw(piece, layout.parameter, seed, _deviation(piece.name, model))


def _deviation(name: str, model: ModelConfig) -> float:
    if model.family == "t5":
        return _t5_deviation(name, model)
    shrinks = model.norm_placement == "pre" and name.endswith(RESIDUAL_PROJECTIONS)
    return model.init_std / math.sqrt(2.0 * model.layers) if shrinks else model.init_std


def _t5_deviation(name: str, model: ModelConfig) -> float:
    """As in mesh-tensorflow: activations keep their size, and queries carry the scale that attention leaves out (Raffel et
    al. 2020; `T5PreTrainedModel._init_weights` of Hugging Face)."""
    assert model.head_size is not None
    assert model.ffn is not None
    kind = name.split(".")[-2]
    if kind in ("word",) or name == "output.weight":
        return 1.0
    if kind == "query":
        return (model.hidden * model.head_size) ** -0.5
    if kind == "output":
        return (model.heads * model.head_size) ** -0.5
    return (model.ffn if kind == "down" else model.hidden) ** -0.5


def _draw(piece: Piece, parameter: torch.Tensor, seed: int, deviation: float) -> None:
    local = piece.local(parameter)
    rows_a_block = max(1, BLOCK_NUMEL // math.prod(piece.shape[1:]))
    first, stop = piece.start[0], piece.start[0] + piece.size[0]
    columns = tuple(slice(a, a + n) for a, n in zip(piece.start[1:], piece.size[1:], strict=True))
    for block in range(first // rows_a_block, (stop - 1) // rows_a_block + 1):
        begin = block * rows_a_block
        end = min(begin + rows_a_block, piece.shape[0])
        generator = torch.Generator().manual_seed(key(seed, piece.name, block))
        drawn = torch.empty(end - begin, *piece.shape[1:]).normal_(0.0, deviation, generator=generator)
        low, high = max(begin, first), min(end, stop)
        part = drawn[(slice(low - begin, high - begin), *columns)]
        local[low - first : high - first].copy_(part)
