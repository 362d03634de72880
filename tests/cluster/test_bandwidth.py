from collections import Counter

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import distributed_c10d

from dist_plm.cluster import bandwidth
from dist_plm.cluster.bandwidth import rounds, table
from tests.ranks.pool import World


@given(st.integers(1, 60), st.integers(2, 20))
def test_no_rank_waits_and_no_pair_is_measured_twice(size: int, most: int) -> None:
    plan = rounds(size, most)
    assert len(plan) <= most
    for pairs in plan:
        assert all(count == 1 for count in Counter(rank for pair in pairs for rank in pair).values())
        assert len(pairs) == size // 2
        assert all(0 <= a < b < size for a, b in pairs)
    every = [pair for pairs in plan for pair in pairs]
    assert len(set(every)) == len(every)
    if size - (size + 1) % 2 <= most:
        assert len(every) == size * (size - 1) // 2


NODES = ["a", "a", "b", "b", "c", "c"]
ALL = {(i, j): (20e9 if i // 2 == j // 2 else 10e9) for j in range(6) for i in range(j)}


def test_links_of_both_kinds_are_summed_up() -> None:
    assert table(ALL, NODES) == [
        "links within a node: 3 measured, slowest 20.00 GB/s, typical 20.00 GB/s, fastest 20.00 GB/s",
        "links between nodes: 12 measured, slowest 10.00 GB/s, typical 10.00 GB/s, fastest 10.00 GB/s",
    ]


def test_a_slow_link_is_named() -> None:
    lines = table(ALL | {(1, 4): 2e9}, NODES)
    assert lines[2:] == ["warning: rank 1 (a) to rank 4 (c) is slow, 2.00 GB/s where 10.00 GB/s is usual"]


@pytest.mark.parametrize("node", ["a", "b", "c"])
def test_a_slow_node_is_named_once(node: str) -> None:
    slow = {pair: 0.1e9 for pair in ALL if {NODES[pair[0]], NODES[pair[1]]} > {node}}
    lines = table(ALL | slow, NODES)
    assert [line for line in lines if line.startswith("warning")] == [
        f"warning: every link of {node} is slow, 100 MB/s where 10.00 GB/s is usual"
    ]


def groups_left(world: World) -> tuple[list[str], int, bool]:
    """Lines of the table, groups more than before, and whether all messages between pairs went by a group of their own."""
    before, groups, plain = len(distributed_c10d._world.pg_map), set(), dist.send

    def send(*args, group=None, **more):
        groups.add(group)
        return plain(*args, group=group, **more)

    dist.send = send
    try:
        lines = bandwidth.measure(world.device, ["a"] * world.size)
    finally:
        dist.send = plain
    return lines, len(distributed_c10d._world.pg_map) - before, groups <= {None, dist.group.WORLD}


def test_communicators_of_pairs_are_given_up(ranks) -> None:
    for lines, left, by_world in ranks.run(3, groups_left):
        assert [line for line in lines if line.startswith("links within a node: 3 measured")]
        assert left == 0
        assert not by_world
