"""The server from which test processes are forked with PyTorch and Megatron-core imported and nothing redirected."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Literal

_starting = threading.Lock()


def fork_server() -> ForkServerContext:
    """A context for new processes; the server itself starts with the first of them and ends with the tests.

    None of its processes sees a GPU: libraries ask CUDA for devices while they are imported, and a process forked
    after that can do nothing with them, not even ask.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ranks.preload"])
    with _starting, without_gpus():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def without_gpus() -> Iterator[None]:
    """Hides them from processes that are started meanwhile."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def context_of(device: Literal["cpu", "cuda"]) -> ForkServerContext | SpawnContext:
    """Processes that compute on `device`: those of a GPU begin from nothing."""
    return fork_server() if device == "cpu" else multiprocessing.get_context("spawn")
