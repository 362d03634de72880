"""Fixtures for every test."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.ranks.pool import RankPool

# Before anything imports Triton: without a GPU its kernels are run by its interpreter.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for ranks is marked so, before tests are deselected by marker."""
    for item in items:
        if "ranks" in getattr(item, "fixturenames", ()):
            item.add_marker("ranks")


@pytest.fixture(scope="session")
def ranks() -> "Iterator[RankPool]":
    """Up to 8 real gloo ranks: `ranks.run(2, fn, arg)` gives the results of `fn(world, arg)` by rank."""
    # Imported here, as it brings PyTorch and Megatron-core, which tests of pure code do not wait for.
    from tests.ranks.pool import RankPool

    pool = RankPool(size=8)
    yield pool
    pool.close()
