"""Collectives through shared memory: what gloo gives, and an error where a rank does something else or comes no more."""

import os
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch._C import _distributed_c10d as c10d

from dist_plm.distributed.shared_memory import segment
from dist_plm.distributed.shared_memory.calls import DTYPES, KINDS, REDUCTIONS, SharedCall, call_of, number_of
from dist_plm.distributed.shared_memory.segment import SLOT_BYTES, possible
from dist_plm.distributed.shared_memory.shared_group import BACKEND, SharedGroup, register
from dist_plm.distributed.world import host_group, leave
from dist_plm.engines.measuring.step_clock import COLLECTIVES, StepClock
from dist_plm.monitor import flight_recorder
from dist_plm.monitor.flight_recorder import flight_record, last_collective
from tests.ranks.pool import RanksError
from tests.ranks.times import LONG
from tests.ranks.training import configure, few_steps, train_case

pytestmark = [pytest.mark.ranks, pytest.mark.skipif(not possible(), reason="Linux on x86-64 alone has it")]

#: In a slot, in several pieces, and in no whole number of them for any size of a group.
COUNTS = (0, 1, 1000, SLOT_BYTES // 4 + 1, SLOT_BYTES // 2 - 3)


def shared(timeout=LONG):
    register()
    group = dist.new_group(backend=BACKEND, timeout=timeout)
    assert group._segment is not None
    return group


def values_of(rank, count, dtype):
    drawn = torch.randn(count, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)
    return (drawn * 10).abs().to(dtype) if dtype == torch.uint8 else (drawn * 10).to(dtype)


def collectives(group, values, size):
    """Results of each kind for `values` [n], by name."""
    results = {}
    for name, op in (("sum", dist.ReduceOp.SUM), ("max", dist.ReduceOp.MAX), ("min", dist.ReduceOp.MIN)):
        results[name] = values.clone()
        dist.all_reduce(results[name], op, group=group)
    every = torch.cat([values + values.new_tensor(rank) for rank in range(size)])
    parts = list(every.chunk(size)) if values.numel() else [values.clone() for _ in range(size)]
    results["gathered"] = torch.empty_like(every)
    dist.all_gather_into_tensor(results["gathered"], values, group=group)
    listed = [torch.empty_like(values) for _ in range(size)]
    dist.all_gather(listed, values, group=group)
    results["listed"] = torch.cat(listed)
    results["scattered"] = torch.empty_like(values)
    dist.reduce_scatter_tensor(results["scattered"], every, group=group)
    results["parts"] = torch.empty_like(values)
    dist.reduce_scatter(results["parts"], parts, group=group)
    results["exchanged"] = torch.empty_like(every)
    dist.all_to_all_single(results["exchanged"], every, group=group)
    results["broadcast"] = values.clone()
    dist.broadcast(results["broadcast"], dist.get_global_rank(group, size - 1), group=group)
    return results


def compare_with_gloo(world):
    group, gloo = shared(), host_group(LONG)
    for dtype in DTYPES:
        for count in COUNTS if dtype in (torch.float32, torch.bfloat16) else COUNTS[:3]:
            values = values_of(world.rank, count, dtype)
            ours, theirs = collectives(group, values, world.size), collectives(gloo, values, world.size)
            for name, expected in theirs.items():
                # gloo adds in another order, and rounds each sum of two.
                close = {"rtol": 2e-2, "atol": 0.5} if dtype.itemsize == 2 else {"rtol": 1e-6, "atol": 1e-5}
                exact = name not in ("sum", "scattered", "parts") or not dtype.is_floating_point or world.size == 2
                torch.testing.assert_close(ours[name], expected, **({"rtol": 0, "atol": 0} if exact else close))
    assert group._num_calls == 9 * sum(
        len(COUNTS) if dtype in (torch.float32, torch.bfloat16) else 3 for dtype in DTYPES
    ), "gloo did some"
    return values_of(world.rank, 5, torch.float32), collectives(
        group, values_of(world.rank, 70_000, torch.float32), world.size
    )


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("size", [2, 3, 4])
def test_gives_what_gloo_gives_and_every_rank_the_same_bits(ranks, size):
    results = ranks.run(size, compare_with_gloo)
    for _, found in results:
        assert torch.equal(found["sum"], results[0][1]["sum"])


def other_ways(world):
    """Coalesced, asynchronous, of objects, of what is not contiguous or needs gradients, in inference mode, and gloo's part."""
    group = shared()
    values = [values_of(world.rank, count, torch.float32) for count in (3, 5)]
    with dist.distributed_c10d._coalescing_manager(group=group):
        for one in values:
            dist.all_reduce(one, group=group)
    turned = values_of(world.rank, 6, torch.float32).view(2, 3).t()
    work = dist.all_reduce(turned, group=group, async_op=True)
    work.wait()
    with torch.inference_mode():
        inferred = values_of(world.rank, 4, torch.float64)
        dist.all_reduce(inferred, group=group)
    learned = torch.nn.Parameter(values_of(world.rank, 4, torch.float64))
    squared = (learned * learned).sum()
    dist.broadcast(learned, 0, group=group)
    squared.backward()  # which a change that autograd sees would end
    objects = [None] * world.size
    dist.all_gather_object(objects, {"rank": world.rank}, group=group)
    product = torch.full((2,), 2.0 + world.rank)
    dist.all_reduce(product, dist.ReduceOp.PRODUCT, group=group)
    sent = torch.full((2,), float(world.rank))
    if world.rank == 0:
        dist.send(sent, 1, group=group)
    elif world.rank == 1:
        dist.recv(sent, 0, group=group)
    dist.barrier(group=group)
    return values, turned, inferred, learned.detach(), objects, product, sent


def test_other_ways_to_ask(ranks):
    (first, second) = ranks.run(2, other_ways)
    drawn = [lambda count, dtype=torch.float32, r=rank: values_of(r, count, dtype) for rank in range(2)]
    for values, turned, inferred, _, objects, product, _ in (first, second):
        for count, found in zip((3, 5), values, strict=True):
            assert torch.equal(found, drawn[0](count) + drawn[1](count))
        assert torch.equal(turned, (drawn[0](6) + drawn[1](6)).view(2, 3).t())
        assert torch.equal(inferred, drawn[0](4, torch.float64) + drawn[1](4, torch.float64))
        assert objects == [{"rank": 0}, {"rank": 1}]
        assert product.tolist() == [6.0, 6.0]
    assert torch.equal(second[3], values_of(0, 4, torch.float64))
    assert second[6].tolist() == [0.0, 0.0]


def timed_from_the_first_message_on(world):
    """A group of a class that has sent nothing yet, as in a process of its own: PyTorch looks for overrides once."""
    fresh = type("Fresh", (SharedGroup,), {})
    store = dist.PrefixStore("fresh", dist.distributed_c10d._get_default_store())
    group, clock = fresh(store, world.rank, world.size, LONG), StepClock(torch.device("cpu"))
    mine, other = torch.full((2,), float(world.rank)), 1 - world.rank
    got = [torch.empty(2) for _ in range(8)]
    scattered, gathered = c10d.ScatterOptions(), c10d.GatherOptions()
    scattered.rootRank = gathered.rootRank = 0
    with clock.running():
        if world.rank == 0:
            group.send([mine], other, 0).wait()
            group.recv([got[0]], other, 0).wait()
            group.send([mine], other, 1).wait()
        else:
            group.recv([got[0]], other, 0).wait()
            group.send([mine], other, 0).wait()
            group.recv_anysource([got[1]], 1).wait()
        group.alltoall(got[2:4], [mine, mine + 10], c10d.AllToAllOptions()).wait()
        group.scatter([got[4]], [[mine + 20, mine + 30]] if world.rank == 0 else [], scattered).wait()
        group.gather([got[5:7]] if world.rank == 0 else [], [mine], gathered).wait()
        got[7] = mine + 1
        group.reduce([got[7]], c10d.ReduceOptions()).wait()
    (seconds,) = clock.take()
    assert seconds["communication"] > 0.0
    return [one[0].item() for one in got]


def test_what_gloo_does_may_be_timed(ranks):
    (first, second) = ranks.run(2, timed_from_the_first_message_on)
    assert [first[0], *first[2:8]] == [1.0, 0.0, 1.0, 20.0, 0.0, 1.0, 3.0]
    assert second[:5] == [0.0, 0.0, 10.0, 11.0, 30.0]


def test_all_that_may_be_timed_is_handed_on():
    """One that a version of PyTorch has added would call itself."""
    of_pytorch = {name for name in COLLECTIVES if name in vars(dist.ProcessGroup)}
    assert of_pytorch <= vars(SharedGroup).keys()


def hours_of_exchanges(world):
    """Thousands in which ranks come at odd times, so that each is overtaken by the others as far as can be."""
    group, draw = shared(), torch.Generator().manual_seed(world.rank)
    for number in range(3000):
        if torch.rand((), generator=draw) < 0.02:
            time.sleep(float(torch.rand((), generator=draw)) * 0.002)
        values = torch.full((257,), float(number + world.rank))
        if number % 3 == 0:
            dist.broadcast(values, number % world.size, group=group)
            assert values.unique().tolist() == [float(number + number % world.size)]
        elif number % 3 == 1:
            dist.all_reduce(values, group=group)
            assert values.unique().tolist() == [float(sum(number + rank for rank in range(world.size)))]
        else:
            gathered = torch.empty(257 * world.size)
            dist.all_gather_into_tensor(gathered, values, group=group)
            assert gathered.unique().tolist() == [float(number + rank) for rank in range(world.size)]


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_nothing_is_overwritten_that_a_slower_rank_reads(ranks):
    ranks.run(3, hours_of_exchanges)


TRAINED = {
    "megatron": {"parallel__tensor": 2, "parallel__sequence_parallel": True, "engine__zero_stage": 1},
    "deepspeed": {"engine__name": "deepspeed", "engine__zero_stage": 2},
    "context_pipeline": {"parallel__context": 2, "parallel__pipeline": 2},
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_is_the_same_through_sockets(ranks, name):
    """To the bit, as groups of two have one order to add in; on four ranks whose data groups are of four, nearly."""
    config = configure(4, **few_steps(4, TRAINED[name]))
    memory, sockets = (ranks.run(4, train_case, config, shared_memory=shared_memory) for shared_memory in (True, False))
    for one, other in zip(memory, sockets, strict=True):
        close = 1e-6 if name == "deepspeed" else 1e-9
        assert (one.losses, one.norms) == (
            pytest.approx(other.losses, rel=close),
            pytest.approx(other.norms, rel=close),
        )
        for tensor, pieces in other.final.items():
            for (_, _, ours), (_, _, theirs) in zip(one.final[tensor], pieces, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=tensor)


def disagree(world):
    group = shared()
    values = torch.ones(3 + world.rank)
    dist.all_reduce(values, group=group)


def test_ranks_that_do_different_things_are_told(ranks):
    with pytest.raises(
        RanksError, match=r"rank 0 of it is in all_reduce of 3 float32 \(sum\), rank 1 in all_reduce of 4"
    ):
        ranks.run(2, disagree)


def end(world, how):
    group = shared(timedelta(seconds=2) if how == "stays away" else LONG)
    dist.barrier(group=group)
    if world.rank == 1:
        if how == "leaves":
            leave()
        elif how == "dies":
            os._exit(3)
        return "", 0.0
    began = time.monotonic()
    try:
        dist.all_reduce(torch.ones(1), group=group)
    except RuntimeError as error:
        return str(error), time.monotonic() - began
    return "", 0.0


@pytest.mark.parametrize(
    ("how", "told"), [("leaves", "rank 1 of the group left"), ("stays away", "timed out after waiting 2 s for rank 1")]
)
def test_a_rank_that_does_not_come_is_told_of(ranks, how, told):
    message, seconds = ranks.run(2, end, how)[0]
    assert told in message
    assert seconds < 10


def test_a_rank_that_died_is_told_of(ranks):
    """Within the seconds that the pool gives the others."""
    with pytest.raises(RanksError, match="failed on 1 of 2 ranks") as failure:
        ranks.run(2, end, "dies")
    assert "the process died with exit code 3" in str(failure.value)


def unreachable(world, rank):
    def failing(*_):
        raise OSError("not in this container")

    if world.rank == rank:
        segment.mmap.mmap, kept = failing, segment.mmap.mmap
    register()
    group = dist.new_group(backend=BACKEND, timeout=LONG)
    if world.rank == rank:
        segment.mmap.mmap = kept
    assert group._segment is None
    values = [torch.ones(2), torch.full((3,), 2.0)]
    with dist.distributed_c10d._coalescing_manager(group=group):
        for one in values:
            dist.all_reduce(one, group=group)
    dist.barrier(group=group)
    assert [one.tolist() for one in values] == [[2.0] * 2, [4.0] * 3]
    found = collectives(group, values_of(world.rank, 10, torch.float32), world.size)
    for name, expected in collectives(host_group(LONG), values_of(world.rank, 10, torch.float32), world.size).items():
        assert torch.equal(found[name], expected), name


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("rank", [0, 1])
def test_where_a_rank_does_not_reach_the_memory_all_send_by_gloo(ranks, rank):
    ranks.run(2, unreachable, rank)


def of_one(world):
    register()
    for rank in range(world.size):
        group = dist.new_group([rank], backend=BACKEND, timeout=LONG)
        if rank == world.rank:
            values = values_of(rank, 10, torch.float32)
            with dist.distributed_c10d._coalescing_manager(group=group):
                dist.all_reduce(coalesced := values.clone(), group=group)
            found = {"coalesced": coalesced, **collectives(group, values, 1)}
            assert [name for name, result in found.items() if not torch.equal(result, values)] == []


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_group_of_one_changes_nothing(ranks):
    ranks.run(2, of_one)


def recorded(world):
    group = shared()
    dist.all_reduce(torch.ones(1), group=group)
    known = last_collective(flight_record())
    # Builds and versions of PyTorch that record nothing.
    flight_recorder._DUMPS, kept = (), flight_recorder._DUMPS
    alone = last_collective(flight_record())
    flight_recorder._DUMPS = kept
    return known, alone


def test_the_last_collective_is_known(ranks):
    for known, alone in ranks.run(2, recorded):
        assert known.startswith("shared_memory:all_reduce number 1 of group ")
        assert alone == known


def test_a_call_is_told_from_every_other():
    calls = [
        SharedCall(kind, dtype, count, reduction, root)
        for kind in KINDS
        for dtype in DTYPES
        for count in (0, 1, 2**40)
        for reduction in REDUCTIONS
        for root in (0, 4095)
    ]
    numbers = [number_of(call) for call in calls]
    assert len(set(numbers)) == len(calls)
    assert max(numbers) < 2**63
    assert [call_of(number) for number in numbers] == calls
