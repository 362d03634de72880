"""Read token by token with a cache, a decoder says what it says of the whole row."""

import itertools

import pytest
import torch

from dist_plm.distributed.groups import build_groups
from dist_plm.models.sequence_context import KVCache
from tests.parts import model_of
from tests.ranks.pool import World
from tests.ranks.times import LONG
from tests.ranks.training import VOCAB, configure, grid_of

LLAMA = {
    "model__position": "rotary",
    "model__norm": "rmsnorm",
    "model__activation": "swiglu",
    "model__bias": False,
    "model__kv_heads": 2,
}
DECODERS = {
    "learned": {},
    "sinusoidal": {"model__position": "sinusoidal"},
    "none": {"model__position": "none"},
    "post": {"model__norm_placement": "post"},
    "rotary": LLAMA,
    "window": {**LLAMA, "model__window": 3, "model__global_tokens": 1},
    "window of learned positions": {"model__window": 2, "model__global_tokens": 2},
}
PAIRS = {
    "t5": {
        "model__family": "t5",
        "model__position": "relative",
        "model__relative_distance": 8,
        "model__relative_buckets": 8,
        "model__norm": "rmsnorm",
        "model__bias": False,
        "objective__name": "span",
    },
    "transformer": {
        "model__family": "transformer",
        "model__position": "sinusoidal",
        "model__norm_placement": "post",
        "objective__name": "span",
    },
}


def built(world: World, changes: dict):
    config = configure(1, model__init_std=0.3, **changes)
    groups = build_groups(grid_of(config), world.device, timeout=LONG)
    (chunk,), _ = model_of(config, groups, torch.device("cpu"))
    return chunk.eval()


def drawn(rows, length):
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(3))


def in_parts(chunk, batches, capacity):
    cache = KVCache(capacity)
    return torch.stack([chunk(batch, cache) for batch in batches], dim=1)


@torch.no_grad()
def read_in_parts(world: World, changes: dict) -> None:
    chunk, tokens, samples = built(world, changes), drawn(3, 12), torch.arange(3)
    whole = chunk({"tokens": tokens, "samples": samples}).transpose(0, 1)
    bounds = [0, 5, 6, 7, 10, 12]  # reads several at once too
    batches = [{"tokens": tokens[:, a:b], "samples": samples} for a, b in itertools.pairwise(bounds)]
    read = in_parts(chunk, batches, 12)
    torch.testing.assert_close(read, whole[:, [b - 1 for b in bounds[1:]]], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def read_padded(world: World, changes: dict) -> None:
    chunk, lengths, steps = built(world, changes), [2, 7, 5], 4
    rows = [drawn(1, length + steps)[0] + i for i, length in enumerate(lengths)]
    rows = [row % VOCAB for row in rows]
    longest = max(lengths)
    tokens = torch.stack(
        [torch.cat([torch.full((longest - n,), 1), row]) for n, row in zip(lengths, rows, strict=True)]
    )
    starts = torch.tensor([longest - n for n in lengths])
    columns = torch.arange(longest + steps)
    documents = (columns >= starts[:, None]).int()
    positions = (columns - starts[:, None]).clamp(min=0)
    bounds = [0, longest, longest + 1, longest + 2]
    batches = [
        {
            "tokens": tokens[:, a:b],
            "samples": torch.arange(3),
            "documents": documents[:, :b],
            "positions": positions[:, a:b],
        }
        for a, b in itertools.pairwise(bounds)
    ]
    read = in_parts(chunk, batches, longest + steps)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        single = chunk({"tokens": row[None, : length + 2], "samples": torch.arange(1)})[:, 0]
        torch.testing.assert_close(read[i], single[length - 1 :], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def read_as_pair(world: World, changes: dict) -> None:
    chunk, samples = built(world, changes), torch.arange(3)
    read = {"tokens": drawn(3, 16), "lengths": torch.tensor([16, 9, 4]), "samples": samples}
    written = drawn(3, 9) + 1
    written[written >= VOCAB] = 0
    whole = chunk({**read, "decoder_tokens": written})[: written.shape[1]].transpose(0, 1)
    batches = [{**read, "decoder_tokens": written[:, i : i + 1]} for i in range(9)]
    torch.testing.assert_close(in_parts(chunk, batches, 9), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder(ranks, name):
    ranks.run(1, read_in_parts, DECODERS[name])


@pytest.mark.parametrize("name", DECODERS)
def test_rows_that_are_padded_on_the_left_see_nothing_of_it(ranks, name):
    ranks.run(1, read_padded, DECODERS[name])


@pytest.mark.parametrize("name", PAIRS)
def test_an_encoder_and_a_decoder(ranks, name):
    ranks.run(1, read_as_pair, PAIRS[name])
