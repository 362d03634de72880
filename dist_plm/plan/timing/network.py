"""Estimates how long collectives take: rings over the links inside a node, and over the network between nodes."""

from dataclasses import dataclass

from dist_plm.distributed.grid import AXES, Axis, Grid
from dist_plm.plan.timing.efficiency import DEFAULT, Efficiency
from dist_plm.spec.gpus import Gpu
from dist_plm.spec.schema_run import ClusterConfig

#: GPUs of a node where the configuration does not say.
GPUS_PER_NODE = 8


@dataclass(frozen=True, slots=True)
class Network:
    """Knows how far apart the ranks of a group are.

    Args:
        link, network: bytes/s each way of a rank, inside a node and between nodes.
        node: ranks that links join.
    """

    grid: Grid
    link: float
    network: float
    node: int
    efficiency: Efficiency = DEFAULT

    @classmethod
    def of(cls, grid: Grid, gpu: Gpu, cluster: ClusterConfig, efficiency: Efficiency = DEFAULT) -> "Network":
        network_gbit = cluster.network_gbit or gpu.network_gbit
        node = gpu.linked or cluster.ranks_per_node or cluster.gpus_per_node or GPUS_PER_NODE
        link, network = gpu.link_gb * 1e9 * efficiency.link, network_gbit / 8 * 1e9 * efficiency.network
        return cls(grid, link, network, node, efficiency)

    def all_reduce(self, num_bytes: float, *axes: Axis) -> float:
        """Seconds until all ranks along `axes` have the sum."""
        return 2 * self.gather(num_bytes, *axes)

    def gather(self, num_bytes: float, *axes: Axis) -> float:
        """Seconds of an all-gather or reduce-scatter, `num_bytes` being the whole."""
        ranks = self._size(axes)
        if ranks == 1:
            return 0.0
        sent = num_bytes * (ranks - 1) / ranks
        return sent / self._bandwidth(axes) + self.efficiency.start + self.efficiency.hop * min(ranks - 1, 64)

    def exchange(self, num_bytes: float, *axes: Axis) -> float:
        """Seconds of an all-to-all, `num_bytes` being what each rank has, of which it sends each other one an equal part. What
        leaves the node goes by the rank's own share of the network, beside what stays: no member carries it for others.
        """
        ranks = self._size(axes)
        if ranks == 1:
            return 0.0
        near, part = min(ranks, max(1, self.node // self._stride(axes))), num_bytes / ranks
        sent = max((near - 1) * part / self.link, (ranks - near) * part / self.network)
        return sent + self.efficiency.start + self.efficiency.hop * min(ranks - 1, 64)

    def send(self, num_bytes: float) -> float:
        """Seconds of a message to the next stage of a pipeline."""
        inside = self.grid.size <= self.node
        return num_bytes / (self.link if inside else self.network) + self.efficiency.start

    def _bandwidth(self, axes: tuple[Axis, ...]) -> float:
        """Bytes/s of a rank: inside a node that of its link, across nodes the network of all its members on a node."""
        stride, size = self._stride(axes), self._size(axes)
        if stride * size <= self.node:
            return self.link
        members = max(1, self.node // stride)
        return min(self.link, self.network * members)

    def _stride(self, axes: tuple[Axis, ...]) -> int:
        """Ranks from one member of a group to the next."""
        stride = 1
        for axis, degree in zip(AXES, self.grid.shape, strict=True):
            if axis in axes:
                break
            stride *= degree
        return stride

    def _size(self, axes: tuple[Axis, ...]) -> int:
        size = 1
        for axis, degree in zip(AXES, self.grid.shape, strict=True):
            size *= degree if axis in axes else 1
        return size
