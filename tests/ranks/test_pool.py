"""The rank pool itself: a harness that hid a failure would make every test on ranks worthless."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import build_groups
from dist_plm.distributed.world import leave
from tests.ranks.pool import RankPool, RanksError
from tests.ranks.server import fork_server
from tests.ranks.times import LONG

pytestmark = pytest.mark.ranks


def total(world, value):
    tensor = torch.tensor([value * 10**world.rank])
    dist.all_reduce(tensor)
    return world.rank, world.size, tensor.item()


def test_results_are_in_the_order_of_ranks(ranks):
    for size in (1, 4, 2, 4):
        assert ranks.run(size, total, 3) == [(rank, size, int("3" * size)) for rank in range(size)]


def process(world):
    return os.getpid(), torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def test_processes_stay_and_have_one_thread(ranks):
    first = ranks.run(2, process)
    assert ranks.run(2, process) == first
    assert [threads for _, *threads in first] == [[1, "1"], [1, "1"]]
    assert len({os.getpid(), *(pid for pid, *_ in first)}) == 3


def imported(world):
    return "tests.ranks.preload" in sys.modules


def test_ranks_are_born_with_their_imports(ranks):
    """A server that cannot import something says nothing."""
    assert ranks.run(1, imported) == [True]


def raise_on(world, failing):
    if world.rank == failing:
        raise ValueError(f"rank {world.rank} cannot go on")
    dist.all_reduce(torch.zeros(1))


@pytest.mark.parametrize("failing", [0, 1])
def test_an_exception_is_told_while_others_wait_in_a_collective(ranks, failing):
    start = time.monotonic()
    with pytest.raises(RanksError) as caught:
        ranks.run(2, raise_on, failing, timeout_seconds=1000)
    message = str(caught.value)
    assert "test_pool.raise_on failed on 2 of 2 ranks" in message
    assert f"ValueError: rank {failing} cannot go on" in message
    assert "in raise_on" in message
    assert message.index(f"--- rank {failing}") < message.index(f"--- rank {1 - failing}")
    assert time.monotonic() - start < 500
    assert ranks.run(2, total, 1) == [(0, 2, 11), (1, 2, 11)]


def raise_after_the_others_are_done(world):
    if world.rank == 1:
        time.sleep(0.5)
        raise ValueError("late")


def test_a_late_exception_is_told_and_blames_no_other_rank(ranks):
    with pytest.raises(RanksError, match="failed on 1 of 2 ranks") as caught:
        ranks.run(2, raise_after_the_others_are_done)
    assert "ValueError: late" in str(caught.value)


def sleep_on(world, rank):
    if world.rank == rank:
        time.sleep(600)
    return world.rank


def test_a_hang_is_ended_by_the_time_out_and_shows_where(ranks):
    for seconds in (5.0, 60.0):  # on a busy machine a rank may not have come as far after five
        start = time.monotonic()
        with pytest.raises(RanksError) as caught:
            ranks.run(2, sleep_on, 1, timeout_seconds=seconds)
        message = str(caught.value)
        assert time.monotonic() - start < 500
        assert "--- rank 1\nnot done in time" in message
        if "in sleep_on" in message:
            break
    assert "in sleep_on" in message.split("--- rank 1, end of its output")[1]
    assert ranks.run(2, total, 1) == [(0, 2, 11), (1, 2, 11)]


def die(world):
    if world.rank == 1:
        os.write(2, b"last words\n")
        os._exit(7)
    dist.barrier()


def test_a_death_is_told_with_the_last_output(ranks):
    with pytest.raises(RanksError, match=r"exit code 7[\s\S]*last words"):
        ranks.run(2, die)
    assert ranks.run(1, total, 1) == [(0, 1, 1)]


def return_a_lambda(world):
    return lambda: None


def test_a_result_that_cannot_be_sent_is_a_failure(ranks):
    with pytest.raises(RanksError, match="pickle"):
        ranks.run(1, return_a_lambda)


def litter(world):
    build_groups(Grid(tensor=2), world.device, timeout=LONG)
    get_cuda_rng_tracker().add("model-parallel-rng", 1)
    torch.manual_seed(1)
    torch.rand(5)
    assert parallel_state.is_initialized()
    return get_cuda_rng_tracker().is_initialized()


def inspect(world):
    drawn = torch.rand(1).item()
    return parallel_state.is_initialized(), get_cuda_rng_tracker().is_initialized(), dist.get_world_size(), drawn


def test_a_case_leaves_nothing_behind(ranks):
    before = ranks.run(2, inspect)
    assert ranks.run(2, litter) == [True, True]
    assert ranks.run(2, inspect) == before
    assert [state[:3] for state in before] == [(False, False, 2)] * 2


KEPT = []


def keep_a_group(world):
    group = dist.new_group([0, 1])
    dist.all_reduce(torch.zeros(1), group=group)
    KEPT.append(group)
    return os.getpid()


def test_processes_that_keep_groups_are_replaced(ranks):
    used = ranks.run(2, keep_a_group)
    assert not set(used) & {pid for pid, *_ in ranks.run(2, process)}
    assert gone(used)


def give_up_groups(world):
    leave()
    return dist.is_initialized()


def test_a_case_may_give_up_its_groups(ranks):
    assert ranks.run(2, give_up_groups) == [False, False]


def test_two_pools_at_once_do_not_meet(ranks):
    other = RankPool(size=2)
    results = {}
    try:
        threads = [
            threading.Thread(target=lambda p=pool, v=value: results.update({v: [p.run(2, total, v) for _ in range(5)]}))
            for pool, value in ((ranks, 1), (other, 2))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        other.close()
    assert results == {value: [[(0, 2, 11 * value), (1, 2, 11 * value)]] * 5 for value in (1, 2)}


def start_helper(world):
    return subprocess.Popen(["sleep", "600"]).pid


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pids, seconds=120.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(map(is_running, pids)):
        time.sleep(0.05)
    return not any(map(is_running, pids))


def test_closing_ends_ranks_and_what_they_started():
    pool = RankPool(size=1)
    pids = [pool.run(1, start_helper)[0], pool.run(1, process)[0][0]]
    assert all(map(is_running, pids))
    pool.close()
    assert gone(pids)


def run_and_be_killed(connection):
    connection.send([pid for pid, *_ in RankPool(size=2).run(2, process)])
    os.kill(os.getpid(), signal.SIGKILL)


def test_ranks_end_when_the_tests_are_killed():
    ours, theirs = multiprocessing.Pipe()
    tests = fork_server().Process(target=run_and_be_killed, args=(theirs,))
    tests.start()
    pids = ours.recv()
    tests.join()
    assert tests.exitcode == -signal.SIGKILL
    assert len(pids) == 2
    assert gone(pids)
