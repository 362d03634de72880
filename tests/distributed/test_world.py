"""How ranks meet and part."""

import os
import re
import resource
import socket
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state

from dist_plm.core.errors import EXIT_CRASHED, PreflightError, UserError
from dist_plm.core.streams import code_of
from dist_plm.data.loader.microbatch_loader import LoaderError
from dist_plm.distributed.device import Device
from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import build_groups
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.distributed.world import init_process_group, leave, shutdown
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.ranks.times import LONG


def total(value):
    tensor = torch.tensor([float(value)])
    dist.all_reduce(tensor)
    return tensor.item()


def alone(world):
    leave()
    for _ in range(2):
        init_process_group(LaunchEnv(), world.device, LONG)
        build_groups(Grid(), world.device, timeout=LONG)
        assert (dist.get_world_size(), dist.get_backend(), total(3)) == (1, "gloo", 3.0)
        shutdown()
        assert not dist.is_initialized()
        assert not parallel_state.is_initialized()
    shutdown()


def test_one_process_needs_no_address(ranks):
    ranks.run(1, alone)


def test_nccl_learns_the_device_and_gloo_beside_it_the_loopback(monkeypatch):
    """With its device NCCL splits communicators off the first; gloo carries what happens on the host."""
    asked = {}
    monkeypatch.setattr(dist, "init_process_group", lambda *backend, **options: asked.update(options))
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k != "GLOO_SOCKET_IFNAME"})
    device = Device(kind="cuda", torch_device=torch.device("cuda", 3), backend="nccl")
    launch = LaunchEnv(rank=3, world_size=4, local_rank=3, local_world_size=4, master_addr="localhost", master_port=1)
    init_process_group(launch, device, LONG, store=dist.HashStore())
    assert asked["device_id"] == torch.device("cuda", 3)
    assert os.environ["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")
    del os.environ["GLOO_SOCKET_IFNAME"]
    init_process_group(replace(launch, world_size=8), device, LONG, store=dist.HashStore())
    assert "GLOO_SOCKET_IFNAME" not in os.environ, "other nodes are not found there"


def limits(world):
    leave()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    init_process_group(LaunchEnv(), world.device, LONG)
    shutdown()
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0], hard


def test_the_limit_of_open_files_is_raised(ranks):
    """The usual one ends with some 250 ranks."""
    ((soft, hard),) = ranks.run(1, limits)
    assert soft == (hard if 0 < hard < 2**20 else 2**20)


def meet(world, address, port):
    leave()
    os.environ.pop("GLOO_SOCKET_IFNAME", None)
    launch = LaunchEnv(
        rank=world.rank,
        world_size=world.size,
        local_rank=world.rank,
        local_world_size=world.size,
        master_addr=address,
        master_port=port,
    )
    init_process_group(launch, world.device, LONG)
    result = total(10**world.rank)
    shutdown()
    return result, os.environ.get("GLOO_SOCKET_IFNAME")


def test_ranks_of_one_node_meet_at_the_address_over_the_loopback(ranks):
    assert ranks.run(2, meet, "127.0.0.1", free_port()) == [(11.0, "lo")] * 2


def test_an_address_may_be_of_ipv6(ranks):
    try:
        port = free_port(socket.AF_INET6, "::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert [total for total, _ in ranks.run(2, meet, "::1", port)] == [11.0, 11.0]


def meet_nobody(world):
    """As on two nodes of one rank each, of which the other never comes."""
    leave()
    os.environ.pop("GLOO_SOCKET_IFNAME", None)
    launch = LaunchEnv(rank=0, world_size=2, local_rank=0, local_world_size=1, master_port=free_port())
    try:
        init_process_group(launch, world.device, timedelta(seconds=1))
    finally:
        # What Gloo listens on must be reachable from the other node, so the loopback is not for it.
        assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_over_several_nodes_no_interface_is_imposed_and_an_absent_rank_is_not_waited_for_for_ever(ranks):
    with pytest.raises(RanksError, match=r"NotMetError: rank 0 of 2 waited .* for rank 1 in vain"):
        ranks.run(1, meet_nobody)


def part(world):
    """When this rank began to part and when it had, by the clock that all processes share."""
    if world.rank == 1:
        time.sleep(1.0)
    began = time.monotonic()
    shutdown()
    return began, time.monotonic(), dist.is_initialized()


def test_shutdown_waits_for_the_last_rank(ranks):
    (_, first_had, after), (last_began, _, after_last) = ranks.run(2, part)
    assert first_had > last_began
    assert (after, after_last) == (False, False)


def abandon(world):
    if world.rank == 1:
        leave()
        return None
    with pytest.raises(RuntimeError, match="onnection"):
        total(1)
    leave()
    return "noticed"


def test_leaving_ends_the_collectives_of_others(ranks):
    assert ranks.run(2, abandon) == ["noticed", None]


@pytest.mark.parametrize("host", ["no-such-host.invalid", "", "a" * 300])
def test_a_host_without_address_is_refused_at_once(host):
    launch = LaunchEnv(rank=1, world_size=2, local_world_size=1, master_addr=host, master_port=29500)
    with pytest.raises(PreflightError, match=r"MASTER_ADDR = .* has no address|where rank 1 is to meet"):
        init_process_group(launch, Device("cpu", torch.device("cpu"), "gloo"), LONG)


def told_of(world):
    """What a rank that waits for one that left says, and its exit code."""
    if world.rank == 1:
        leave()
        return None
    told: list[UserError] = []
    code = code_of(lambda: int(total(1)), told.append)
    return code, str(told[0])


@pytest.mark.parametrize(
    ("shared_memory", "said"),
    [
        (True, "connection closed by peer: rank 1 of the group left"),
        (False, r"Connection closed by peer \[\S+\]:\d+|Read error \[\S+\]:\d+: Connection reset by peer"),
    ],
)
def test_a_rank_that_is_gone_is_told_of_in_one_message(ranks, shared_memory, said):
    code, message = ranks.run(2, told_of, shared_memory=shared_memory)[0]
    assert code == EXIT_CRASHED
    assert re.fullmatch(
        f"another rank is gone, or the network to it: ({said}). This one cannot go on without it. Look for what that rank said "
        "last, and what its launcher says of it",
        message,
    )


#: As PyTorch writes them; lines of code and versions vary.
OF_NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, remote process exited or there was a "
    "network error, NCCL version 2.29.7\nncclRemoteError: A call failed possibly due to a network error or a remote process "
    "exiting prematurely."
)
OF_THE_STORE = "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?"


def of_libraries(world):
    def fails(error):
        raise error

    told: list[UserError] = []
    for error in (dist.DistBackendError(OF_NCCL), dist.DistNetworkError(OF_THE_STORE)):
        assert code_of(partial(fails, error), told.append) == EXIT_CRASHED
    others = (
        dist.DistBackendError("NCCL error: unhandled cuda error"),
        ValueError("connection closed by peer"),
        LoaderError("a data worker failed:\nConnectionResetError: [Errno 104] Connection reset by peer"),
    )
    for error in others:
        with pytest.raises(type(error)):
            code_of(partial(fails, error), told.append)
    leave()
    with pytest.raises(RuntimeError, match="alone"):  # it has no other ranks
        code_of(partial(fails, RuntimeError("connection closed by peer, alone")), told.append)
    return [str(one) for one in told]


def test_so_are_what_nccl_and_the_store_say_and_nothing_else(ranks):
    (told,) = ranks.run(1, of_libraries)
    assert [text.partition(": ")[2].partition(". This one cannot")[0] for text in told] == [
        OF_NCCL.splitlines()[0],
        OF_THE_STORE,
    ]
