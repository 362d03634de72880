"""Where the ranks of a run meet: says soon whom a rank waits for and where, and in the end who did not come."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

from dist_plm.core.errors import NotMetError
from dist_plm.core.streams import tell
from dist_plm.distributed.launch_env import LaunchEnv

#: After which a rank says that it waits: the first of each node, and later the others, which would say the same.
FIRST_SECONDS, OTHERS_SECONDS = 5.0, 30.0
#: Between two looks at who is there: at first, later as a share of what has been waited, and at most. One store answers
#: all ranks.
_LOOK_SECONDS, _LOOK_SHARE, _LOOK_MOST_SECONDS = 0.05, 0.1, 1.0
#: The most ranks that are named.
_MOST_NAMED = 8
_KNOCK_SECONDS = 5.0
_REMEDY = (
    "start all of them, with torchrun or srun; one process alone needs neither RANK nor WORLD_SIZE in its environment"
)


def meet(launch: LaunchEnv, timeout: timedelta) -> TCPStore:
    """Waits until all ranks are at `launch.master_addr`, and returns the store through which they talk.

    Raises:
        NotMetError: some did not come within `timeout`, or another program holds the port.
    """
    place = f"{launch.master_addr}:{launch.master_port}"
    who = f"rank {launch.rank} of {launch.world_size}"
    # torchrun starts ranks again, and its store may remember those of before.
    prefix = f"met/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    began = time.monotonic()
    end = began + timeout.total_seconds()
    store: TCPStore | None = None

    def missing() -> str:
        if store is None:
            return "rank 0"
        return _named(sorted(set(range(launch.world_size)) - _came(store, prefix)))

    def complaint() -> str:
        return f"{who} waits at {place} for {missing()}, for up to {_told(timeout)}: {_REMEDY}"

    with _saying(complaint, FIRST_SECONDS if launch.local_rank == 0 else OTHERS_SECONDS):
        try:
            opened = _open(launch, end)
            _come(opened, prefix, launch.rank)
            store = opened
            # Waiting in the store, a rank could not look who is there.
            while _number(store, prefix) < launch.world_size:
                if (now := time.monotonic()) > end:
                    raise TimeoutError
                time.sleep(_pause(now - began))
            store.set_timeout(timeout)
            return store
        except (TimeoutError, dist.DistNetworkError, dist.DistStoreError) as error:
            if "EADDRINUSE" in str(error):
                raise NotMetError(
                    f"port {launch.master_port} of {launch.master_addr}, where {who} is to meet the others, is held by another "
                    "program: set MASTER_PORT (torchrun --master-port) to another"
                ) from None
            try:
                absent = missing()
            except dist.DistError:
                absent = "the others"
            raise NotMetError(f"{who} waited {_told(timeout)} at {place} for {absent} in vain: {_REMEDY}") from None


def _come(store: Store, prefix: str, rank: int) -> None:
    """Tells the others that a rank is here, who count it once however often it comes."""
    if store.add(f"{prefix}/{rank}", 1) == 1:
        store.append(f"{prefix}/ranks", f"{rank} ")  # pyright: ignore[reportAttributeAccessIssue]
        store.add(f"{prefix}/number", 1)


def _number(store: Store, prefix: str) -> int:
    """Gives how many ranks are here, whatever their number in one short answer."""
    return store.add(f"{prefix}/number", 0)


def _came(store: Store, prefix: str) -> set[int]:
    """Gives the ranks that are here, one of which must be: the store has no answer before."""
    return set(map(int, store.get(f"{prefix}/ranks").split()))


def _pause(waited_seconds: float) -> float:
    """Gives the seconds to the next look at who is there."""
    return min(max(_LOOK_SECONDS, _LOOK_SHARE * waited_seconds), _LOOK_MOST_SECONDS)


def _open(launch: LaunchEnv, end: float) -> TCPStore:
    """The store of torchrun's agent where it keeps one, else that of rank 0.

    Raises:
        TimeoutError: nobody is there at `end`, of the monotonic clock.
    """
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    is_master = launch.rank == 0 and not of_agent
    if not is_master:
        _wait_for_listener(launch, end)
    return TCPStore(
        launch.master_addr,
        launch.master_port,
        world_size=launch.world_size,
        is_master=is_master,
        timeout=timedelta(seconds=max(end - time.monotonic(), 1.0)),
        wait_for_workers=False,
        multi_tenant=not of_agent,
    )


def _wait_for_listener(launch: LaunchEnv, end: float) -> None:
    """Knocks until somebody is there: the store would try several times as long, and complain in pages."""
    began = time.monotonic()
    while True:
        try:
            socket.create_connection((launch.master_addr, launch.master_port), timeout=_KNOCK_SECONDS).close()
            return
        except OSError:
            if (now := time.monotonic()) > end:
                raise TimeoutError from None
            time.sleep(_pause(now - began))


def _named(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:_MOST_NAMED]))
    if len(ranks) > _MOST_NAMED:
        shown += f" and {len(ranks) - _MOST_NAMED} more"
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}" if ranks else "the others"


def _told(timeout: timedelta) -> str:
    return f"{timeout.total_seconds() / 60:g} minutes (cluster.timeout_minutes)"


@contextmanager
def _saying(complaint: Callable[[], str], seconds: float) -> Iterator[None]:
    """Says on stderr that the block lasts, once it has lasted for so long."""
    ended = threading.Event()

    def say() -> None:
        if not ended.wait(seconds):
            tell(complaint(), sys.stderr)

    teller = threading.Thread(target=say, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join(timeout=1.0)
