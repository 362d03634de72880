"""Estimates how long collectives take: rings over the links inside a node, and over the network between nodes."""

from dataclasses import dataclass

from dist_plm.distributed.grid import AXES, Axis, Grid
from dist_plm.spec.gpus import Gpu
from dist_plm.spec.schema_run import ClusterConfig

#: Shares of a link's and of the network's bandwidth that NCCL's rings reach with large messages (nccl-tests: 230 of 300 GB/s
#: on an A100, 360 of 450 on an H100; 80 to 90 % of InfiniBand).
_LINK = 0.75
_NETWORK = 0.8
#: Seconds of a step of a ring, and of starting a collective.
_HOP, _START = 2e-6, 15e-6
#: GPUs of a node where the configuration does not say.
GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True)
class Network:
    """Knows how far apart the ranks of a group are.

    Args:
        link, network: bytes/s each way of a rank, inside a node and between nodes.
        node: ranks of a node.
    """

    grid: Grid
    link: float
    network: float
    node: int

    @classmethod
    def of(cls, grid: Grid, gpu: Gpu, cluster: ClusterConfig) -> "Network":
        network_gbit = cluster.network_gbit or gpu.network_gbit
        node = cluster.ranks_per_node or cluster.gpus_per_node or GPUS_PER_NODE
        return cls(grid, gpu.link_gb * 1e9 * _LINK, network_gbit / 8 * 1e9 * _NETWORK, node)

    def all_reduce(self, num_bytes: float, *axes: Axis) -> float:
        """Seconds until all ranks along `axes` have the sum."""
        return 2 * self.gather(num_bytes, *axes)

    def gather(self, num_bytes: float, *axes: Axis) -> float:
        """Seconds of an all-gather or reduce-scatter, `num_bytes` being the whole."""
        ranks = self._size(axes)
        if ranks == 1:
            return 0.0
        sent = num_bytes * (ranks - 1) / ranks
        return sent / self._bandwidth(axes) + _START + _HOP * min(ranks - 1, 64)

    def send(self, num_bytes: float) -> float:
        """Seconds of a message to the next stage of a pipeline."""
        inside = self.grid.size <= self.node
        return num_bytes / (self.link if inside else self.network) + _START

    def _bandwidth(self, axes: tuple[Axis, ...]) -> float:
        """Bytes/s of a rank: inside a node that of its link, across nodes the network of all its members on a node."""
        stride = 1
        for axis, degree in zip(AXES, self.grid.shape, strict=True):
            if axis in axes:
                break
            stride *= degree
        size = self._size(axes)
        if stride * size <= self.node:
            return self.link
        members = max(1, self.node // stride)
        return min(self.link, self.network * members)

    def _size(self, axes: tuple[Axis, ...]) -> int:
        size = 1
        for axis, degree in zip(AXES, self.grid.shape, strict=True):
            size *= degree if axis in axes else 1
        return size
