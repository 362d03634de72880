"""The server from which test processes are forked with PyTorch and Megatron-core imported and nothing redirected."""

import multiprocessing
from multiprocessing.context import ForkServerContext


def fork_server() -> ForkServerContext:
    """A context for new processes; the server itself starts with the first of them and ends with the tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.ranks.preload"])
    return context
