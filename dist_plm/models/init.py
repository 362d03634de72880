"""Initial weights that depend on the seed and on a tensor's canonical name alone, so every process grid starts alike.

Each logical tensor is drawn in blocks of rows from a generator on the host keyed by (seed, name, block); a rank draws the
blocks it holds part of and keeps its part. The values are the same on CPU and CUDA.
"""

import math
from collections.abc import Iterable

import torch

from dist_plm.core.randomness.random_numbers import key
from dist_plm.models.sharding import Shard, ShardSpec
from dist_plm.spec.families.tensors import tensors_of
from dist_plm.spec.schema import ModelConfig

BLOCK_NUMEL = 2**20


@torch.no_grad()
def initialize(shard_specs: Iterable[ShardSpec], model: ModelConfig, seed: int) -> None:
    """Fills all parameters in place as the table of the model's tensors says; padding of the vocabulary is 0."""
    inits = {tensor.name: tensor.init for tensor in tensors_of(model)}
    for shard_spec in shard_specs:
        shard_spec.parameter.zero_()
        for shard in shard_spec.shards:
            init = inits[shard.name]
            if shard.numel == 0 or init.kind == "zeros":
                continue
            if init.kind == "ones":
                shard.local(shard_spec.parameter).fill_(1.0)
            else:
                _draw(shard, shard_spec.parameter, seed, init.deviation)


def _draw(shard: Shard, parameter: torch.Tensor, seed: int, deviation: float) -> None:
    local = shard.local(parameter)
    rows_a_block = max(1, BLOCK_NUMEL // math.prod(shard.shape[1:]))
    first, stop = shard.start[0], shard.start[0] + shard.size[0]
    columns = tuple(slice(a, a + n) for a, n in zip(shard.start[1:], shard.size[1:], strict=True))
    for block in range(first // rows_a_block, (stop - 1) // rows_a_block + 1):
        begin = block * rows_a_block
        end = min(begin + rows_a_block, shard.shape[0])
        generator = torch.Generator().manual_seed(key(seed, shard.name, block))
        drawn = torch.empty(end - begin, *shard.shape[1:]).normal_(0.0, deviation, generator=generator)
        low, high = max(begin, first), min(end, stop)
        part = drawn[(slice(low - begin, high - begin), *columns)]
        local[low - first : high - first].copy_(part)
