"""How the ranks of a run meet, and how they part."""

import os
import resource
import socket
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store

from dist_plm.core.errors import NodeError
from dist_plm.distributed.device import Device
from dist_plm.distributed.groups import release_parallel_state
from dist_plm.distributed.launch_env import LaunchEnv, why_unknown
from dist_plm.distributed.rendezvous import meet
from dist_plm.distributed.shared_memory.segment import possible
from dist_plm.distributed.shared_memory.shared_group import BACKEND, leave_all, register

#: Open files of a process, where its site sets no limit.
_MOST_FILES = 2**20


def init_process_group(
    launch: LaunchEnv, device: Device, timeout: timedelta, *, store: Store | None = None, shared_memory: bool = True
) -> None:
    """Make the default process group of all ranks, whose kind is that of the groups made after it.

    Args:
        timeout: of a collective, before the run is given up.
        store: where ranks meet instead of `launch.master_addr`. One process alone needs neither, nor a network.
        shared_memory: CPU ranks that are all on one machine use it, where they can, instead of gloo's sockets.
    Raises:
        NodeError: `launch.master_addr` has no address.
        NotMetError: other ranks did not come in time.
    """
    _raise_limit_of_files()
    on_one_node = launch.local_world_size == launch.world_size
    if on_one_node and (loopback := _loopback()):
        # Gloo, which beside NCCL carries what happens on the host, looks for its own address by the host's name, which on
        # many machines is slow to resolve or does not.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    if store is None and launch.world_size == 1:
        store = HashStore()
    if store is None:
        _check_host(launch)
        store = meet(launch, timeout)
    dist.init_process_group(
        _backend(device, shared_memory=shared_memory and on_one_node and launch.world_size > 1),
        store=store,
        rank=launch.rank,
        world_size=launch.world_size,
        timeout=timeout,
        # NCCL then splits the communicators of other groups off this one, rather than making each anew when it is first used.
        device_id=device.torch_device if device.kind == "cuda" else None,
    )


def _backend(device: Device, *, shared_memory: bool) -> str:
    if device.backend != "gloo" or not shared_memory or not possible():
        return device.backend
    register()
    return BACKEND


def _raise_limit_of_files() -> None:
    """Raises the limit of open files as far as the process may.

    Every gloo group of N ranks takes a connection, so a file, for each of them: the usual 1,024 end with some 250 ranks.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if 0 <= soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _check_host(launch: LaunchEnv) -> None:
    """Refuses a host without an address, for which PyTorch would look until its time-out."""
    if reason := why_unknown(launch.master_addr):
        raise NodeError(
            [
                f"MASTER_ADDR = {launch.master_addr!r}, where rank {launch.rank} is to meet the others of {launch.world_size}, "
                f"has no address ({reason}): name the host of rank 0; where this is one process alone, unset RANK "
                "and WORLD_SIZE"
            ]
        )


def _loopback() -> str | None:
    return next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)


def host_group(timeout: timedelta) -> dist.ProcessGroup:
    """Makes a gloo group of all ranks, for what happens on the host beside training: a connection from each rank to each
    other, so one for each thread that needs one, which is passed to all that the thread asks. Collective."""
    group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(group, dist.ProcessGroup)
    return group


def shutdown() -> None:
    """Wait for every rank, then give up all process groups; nothing where there are none.

    Only for a run that went well: after a failure the others may never come, and the barrier waits for the time-out.
    """
    if not dist.is_initialized():
        return
    on_cuda = dist.get_backend() == "nccl"
    dist.barrier(device_ids=[torch.cuda.current_device()] if on_cuda else None)
    leave()


def leave() -> None:
    """Give up all process groups without waiting for the other ranks, which see their connections close."""
    release_parallel_state()
    leave_all()
    if dist.is_initialized():
        dist.destroy_process_group()
