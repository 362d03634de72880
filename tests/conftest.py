"""Fixtures for every test."""

import contextlib
import gc
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.ranks.pool import RankPool

# Before anything imports Triton: without a GPU its kernels are run by its interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
    # PyTorch's compiler else starts processes that import PyTorch again, in each process that compiles a few layers.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

# A shell has what it starts behind `&` ignore interrupts, and children inherit that; tests interrupt what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine with a GPU may have none, and tests/gpu wants none.
with contextlib.suppress(ImportError):
    from hypothesis import HealthCheck, settings

    # The same examples at each run, however slow the machine; `--hypothesis-profile=default` looks for new ones.
    _TIMED = [HealthCheck.too_slow]
    settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=_TIMED)
    settings.load_profile("repeatable")


#: Many tests of milliseconds: run last, they let the workers end at about the same time.
_SHORT = ("tests/config/", "tests/core/", "tests/spec/")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever asks for ranks is marked so, before tests are deselected by marker; workers begin with what takes long."""
    for item in items:
        if "ranks" in getattr(item, "fixturenames", ()):
            item.add_marker("ranks")
    if hasattr(config, "workerinput"):
        with_ranks = {item.path for item in items if item.get_closest_marker("ranks")}
        items.sort(
            key=lambda item: (not _in_slurm(item.nodeid), item.path not in with_ranks, item.nodeid.startswith(_SHORT))
        )


def pytest_collection_finish() -> None:
    """The collector of cycles, a twelfth of a worker's time else, leaves alone what stays, and comes less often."""
    gc.freeze()
    gc.set_threshold(10_000)


def pytest_unconfigure() -> None:
    """Libraries complain of what is left at the end of a process."""
    gc.unfreeze()


def _in_slurm(nodeid: str) -> bool:
    return nodeid.startswith("tests/slurm/")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile` a file stays on one worker, as its tests share references, and so do all files of Slurm, as
    they share clusters and wait more than they compute."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/slurm" if _in_slurm(nodeid) else super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Each test draws from the same seeds, whichever ran before it in its process."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def ranks() -> "Iterator[RankPool]":
    """Up to 8 real gloo ranks: `ranks.run(2, fn, arg)` gives the results of `fn(world, arg)` by rank."""
    # Imported here, as it brings PyTorch and Megatron-core, which tests of pure code do not wait for.
    from tests.ranks.pool import RankPool

    pool = RankPool(size=8)
    yield pool
    pool.close()
