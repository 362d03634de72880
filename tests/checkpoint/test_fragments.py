import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dist_plm.checkpoint.fragments import Dealer, HostCopies, ReplicaRank, checkpoint_name, cut
from dist_plm.models.sharding import Shard, ShardSpec


def test_names_know_weights_from_moments():
    assert checkpoint_name("weight", "layers.0.mlp.up.weight") == "model.layers.0.mlp.up.weight"
    assert checkpoint_name("exp_avg", "layers.0.mlp.up.weight") == "optimizer.exp_avg.layers.0.mlp.up.weight"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=3), st.integers(1, 200))
def test_boxes_fill_the_piece(size, limit):
    size = tuple(size)
    shard = Shard("w", tuple(n + 2 for n in size), (1,) * len(size), (0,) * len(size), size)
    count = torch.zeros(size)
    for box in cut(shard, limit):
        box.local(count).add_(1)
        assert box.numel * 4 <= limit or box.size[0] == 1
        assert tuple(a - 1 for a in box.start) == box.local_start
    assert bool((count == 1).all())


@given(st.lists(st.integers(1, 100), min_size=1, max_size=50), st.integers(1, 8))
def test_ranks_are_balanced_to_one_box(sizes, count):
    dealer, loads = Dealer(count), [0] * count
    for size in sizes:
        loads[dealer.take(size)] += size
    assert max(loads) - min(loads) <= max(sizes)


def shard_spec(shape, split_dim, copy=False):
    parameter = nn.Parameter(torch.arange(float(torch.Size(shape).numel())).view(shape))
    zeros = (0,) * len(shape)
    return ShardSpec(parameter, (Shard("w", shape, zeros, zeros, shape),), split_dim, copy)


@given(st.sampled_from([None, 0]), st.integers(1, 3), st.integers(1, 3))
def test_each_value_is_written_once(split_dim, tensor_size, replicas):
    shard_specs = [shard_spec((5, 3), split_dim), shard_spec((4,), split_dim), shard_spec((2, 2), split_dim, copy=True)]
    states = [(one, {"weight": one.parameter.detach()}) for one in shard_specs]
    for tensor in range(tensor_size) if split_dim is not None else [None]:
        numbers = [tensor] if tensor is not None else range(tensor_size)
        taken = [
            fragment
            for t in numbers
            for replica in range(replicas)
            for fragment in HostCopies().take(states, ReplicaRank(t, tensor_size, replica, replicas))
        ]
        assert sum(fragment.values.numel() for fragment in taken) == 5 * 3 + 4


def test_copies_do_not_follow_the_source():
    copies, place, one = HostCopies(), ReplicaRank(0, 1, 0, 1), shard_spec((4,), None)
    first = copies.take([(one, {"weight": one.parameter.detach()})], place)[0].values
    memory = first.data_ptr()
    with torch.no_grad():
        one.parameter.add_(1)
    assert first.tolist() == [0, 1, 2, 3]
    second = copies.take([(one, {"weight": one.parameter.detach()})], place)[0].values
    assert second.tolist() == [1, 2, 3, 4]
    assert second.data_ptr() == memory, "the memory of the last copy is used again"
