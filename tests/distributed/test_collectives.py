"""What ranks tell each other in few messages is what gloo's own collectives tell them."""

from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from dist_plm.distributed import collectives
from dist_plm.distributed.collectives import most_of_all
from dist_plm.distributed.world import host_group
from tests.ranks.pool import World
from tests.ranks.times import LONG

pytestmark = pytest.mark.ranks


def told_case(world: World, few: int) -> tuple[list[list[int]], int]:
    """What a rank knows of three rounds, and the messages that it sent."""
    group, sent, found = host_group(LONG), 0, []

    def counted(send):
        def counting(*args, **kwargs):
            nonlocal sent
            sent += 1
            return send(*args, **kwargs)

        return counting

    with (
        patch.object(collectives, "_RING_RANKS", few),
        patch.object(dist, "send", counted(dist.send)),
        patch.object(dist, "isend", counted(dist.isend)),
    ):
        for number in range(3):
            values = torch.tensor([world.rank == number, 7 - world.rank, 10 * number + world.rank], dtype=torch.int32)
            most_of_all(values, group)
            found.append(values.tolist())
    return found, sent


@pytest.mark.parametrize(("size", "sent"), [(2, [1, 1]), (3, [2, 1, 1]), (4, [2, 2, 2, 2])])
def test_the_largest_of_all_ranks(ranks, size, sent):
    told = ranks.run(size, told_case, 1)
    expected = [[int(number < size), 7, 10 * number + size - 1] for number in range(3)]
    assert [found for found, _ in told] == [expected] * size
    assert [count for _, count in told] == [3 * one for one in sent]
    assert ranks.run(size, told_case, 8) == [(expected, 0)] * size
