import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dist_plm.models.sharding import Part, describe, split_over_tensor_ranks


class Holder(nn.Module):
    def __init__(self, rows: int, columns: int, dim: int, parts: tuple[Part, ...], tensor_size: int) -> None:
        super().__init__()
        self.fused = nn.Module()
        shape = (rows // tensor_size, columns) if dim == 0 else (rows, columns // tensor_size)
        self.fused.weight = nn.Parameter(torch.zeros(shape))
        split_over_tensor_ranks(self.fused.weight, dim, parts)
        self.norm = nn.LayerNorm(columns)


@given(
    tensor_size=st.sampled_from([1, 2, 3, 4]),
    units=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    padding=st.integers(0, 11),
)
def test_pieces_of_all_ranks_tile_every_part_once(tensor_size, units, padding):
    parts = [Part(f"part{i}", unit * tensor_size) for i, unit in enumerate(units)]
    padding = min(padding, parts[-1].rows - 1)
    parts[-1] = Part(parts[-1].name, parts[-1].rows, padding)
    rows = sum(part.rows for part in parts)
    seen = {part.name: torch.zeros(part.rows - part.padding, 3) for part in parts}
    for rank in range(tensor_size):
        shard_spec = describe([Holder(rows, 3, 0, tuple(parts), tensor_size)], rank, tensor_size)[0]
        held = torch.zeros_like(shard_spec.parameter)
        for shard in shard_spec.shards:
            seen[shard.name.split(".")[0]][
                tuple(slice(a, a + n) for a, n in zip(shard.start, shard.size, strict=True))
            ] += 1
            assert shard.shape == seen[shard.name.split(".")[0]].shape
            shard.local(held).add_(1)
        assert held.max() <= 1, "two shards overlap in the parameter"
        assert held.numel() - held.sum() == (held.shape[0] * 3 - sum(p.numel for p in shard_spec.shards))
    assert all(bool((count == 1).all()) for count in seen.values())


@given(
    tensor_size=st.sampled_from([1, 2, 3]),
    units=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    padding=st.integers(0, 7),
    data=st.data(),
)
def test_rows_of_a_parameter_are_described_as_the_whole_of_it_is(tensor_size, units, padding, data):
    parts = [Part(f"part{i}", unit * tensor_size) for i, unit in enumerate(units)]
    parts[-1] = Part(parts[-1].name, parts[-1].rows, min(padding, parts[-1].rows - 1))
    model = {f"{part.name}.weight": torch.rand(part.rows - part.padding, 3) for part in parts}
    rows = sum(part.rows for part in parts)
    rank = data.draw(st.integers(0, tensor_size - 1))
    whole = describe([Holder(rows, 3, 0, tuple(parts), tensor_size)], rank, tensor_size)[0]

    def read(shard_spec):
        values = torch.zeros(shard_spec.shape)
        for shard in shard_spec.shards:
            shard.local(values).copy_(shard.whole(model[shard.name]))
        return values

    first = data.draw(st.integers(0, whole.shape[0] - 1))
    stop = data.draw(st.integers(first + 1, whole.shape[0]))
    part = whole.rows(first, stop)
    assert [shard.name for shard in part.shards] == [shard.name for shard in whole.shards]
    assert torch.equal(read(part), read(whole)[first:stop])


def test_rows_columns_and_replicas():
    shard_specs = describe([Holder(8, 6, 1, (), 2)], 1, 2)
    fused, weight, bias = shard_specs
    assert fused.split_dim == 1
    assert fused.shards[0].name == "fused.weight"
    assert fused.shards[0].shape == (8, 6)
    assert fused.shards[0].start == (0, 3)
    assert fused.shards[0].size == (8, 3)
    assert weight.split_dim is None
    assert weight.shards[0].shape == weight.shards[0].size == (6,)
    assert bias.shards[0].name == "norm.bias"


def test_parts_rename_the_module():
    shard_spec = describe([Holder(6, 2, 0, (Part("query", 4), Part("key", 2)), 1)], 0, 1)[0]
    assert [shard.name for shard in shard_spec.shards] == ["query.weight", "key.weight"]
    assert shard_spec.shards[1].local_start == (4, 0)
