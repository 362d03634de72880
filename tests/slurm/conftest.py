"""A real Slurm for the tests of this folder, which say why they are skipped where none can start."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm.local.cluster import LocalCluster, Mode
from slurm.local.start import start, why_not

StartCluster = Callable[..., LocalCluster]


@pytest.fixture(scope="session")
def start_cluster() -> Iterator[StartCluster]:
    """Starts clusters that end with the tests, however these end: `start_cluster(2, "netns")`."""
    clusters: list[LocalCluster] = []

    def start_one(num_nodes: int, mode: Mode) -> LocalCluster:
        if reason := why_not(mode):
            pytest.skip(f"no Slurm: {reason}")
        clusters.append(start(num_nodes, mode, owner=os.getpid()))
        return clusters[-1]

    yield start_one
    for cluster in clusters:
        cluster.stop()


@pytest.fixture(scope="session")
def cluster(start_cluster: StartCluster) -> LocalCluster:
    """4 nodes, each with its own network where this machine allows it."""
    return start_cluster(4, "local" if why_not("netns") else "netns")


@pytest.fixture(scope="session")
def one_address(start_cluster: StartCluster) -> LocalCluster:
    """2 nodes that share this machine's name and address, which do not resolve to each other's."""
    return start_cluster(2, "local")


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[2]
