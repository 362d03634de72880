import pytest
import torch

from dist_plm.models.init import initialize
from dist_plm.models.sharding import Shard, ShardSpec
from tests.ranks.training import configure

MODEL = configure(1).model


def draw(
    name: str, shape: tuple[int, ...], start: tuple[int, ...], size: tuple[int, ...], seed: int = 3
) -> torch.Tensor:
    parameter = torch.nn.Parameter(torch.full(size, torch.nan))
    shard = Shard(name, shape, start, (0,) * len(shape), size)
    initialize([ShardSpec(parameter, (shard,), None, False)], MODEL, seed)
    return parameter.detach()


def test_a_slice_is_drawn_as_in_the_whole_tensor():
    shape = (5000, 640)  # several blocks of rows
    whole = draw("layers.0.mlp.up.weight", shape, (0, 0), shape)
    assert torch.equal(draw("layers.0.mlp.up.weight", shape, (1500, 0), (3200, 640)), whole[1500:4700])
    assert torch.equal(draw("layers.0.mlp.up.weight", shape, (0, 320), (5000, 320)), whole[:, 320:])


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("embedding.word.weight", MODEL.init_std),
        ("layers.1.attention.output.weight", MODEL.init_std / (2 * MODEL.layers) ** 0.5),
        ("layers.1.mlp.down.weight", MODEL.init_std / (2 * MODEL.layers) ** 0.5),
        ("layers.1.attention.query.weight", MODEL.init_std),
    ],
)
def test_deviations(name, deviation):
    values = draw(name, (400, 500), (0, 0), (400, 500))
    count = values.numel()
    assert abs(values.std().item() / deviation - 1) < 4 / (2 * count) ** 0.5
    assert abs(values.mean().item()) < 4 * deviation / count**0.5


def test_norms_and_biases():
    assert bool((draw("layers.0.mlp_norm.weight", (8,), (0,), (8,)) == 1).all())
    assert not draw("layers.0.mlp_norm.bias", (8,), (0,), (8,)).any()
    assert not draw("layers.0.attention.query.bias", (8,), (0,), (8,)).any()


def test_names_and_seeds_differ():
    shape = (64, 64)
    first = draw("layers.0.mlp.up.weight", shape, (0, 0), shape)
    assert not torch.equal(first, draw("layers.1.mlp.up.weight", shape, (0, 0), shape))
    assert not torch.equal(first, draw("layers.0.mlp.up.weight", shape, (0, 0), shape, seed=4))
