"""How fast ranks reach each other: an all-reduce of all of them, and pair after pair, in rounds in which none waits."""

import statistics
import time
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist

from dist_plm.distributed.device import Device

#: Of an all-reduce, and of a message between two ranks.
ALL_REDUCE_BYTES, MESSAGE_BYTES = 16 * 2**20, 4 * 2**20
REPEATS = 3
#: Rounds of pairs: with more ranks than this, not every pair is measured, but every rank is as often.
MAX_ROUNDS = 15
#: A link is slow that has less than this share of the typical bandwidth of its kind.
SLOW_SHARE = 0.5
MAX_SLOW = 10

Pair = tuple[int, int]


def rounds(size: int, most: int = MAX_ROUNDS) -> list[list[Pair]]:
    """Pairs of ranks, each rank at most once a round, each pair in one round: a tournament by the circle method.

    All pairs where that takes `most` rounds or fewer; else as many rounds, spread evenly.
    """
    players: list[int | None] = [*range(size), *([None] if size % 2 else [])]
    count = len(players) - 1
    chosen = range(count) if count <= most else [round(i * (count - 1) / (most - 1)) for i in range(most)]
    plan = []
    for turn in chosen:
        circle = [players[0], *players[1 + turn :], *players[1 : 1 + turn]]
        half = len(circle) // 2
        pairs = zip(circle[:half], reversed(circle[half:]), strict=True)
        plan.append(sorted((min(a, b), max(a, b)) for a, b in pairs if a is not None and b is not None))
    return plan


def measure(device: Device, nodes: Sequence[str]) -> list[str]:
    """Lines of a small table. Collective over all ranks.

    Args:
        nodes: of each rank.
    """
    size = dist.get_world_size()
    all_reduce = _all_reduce_seconds(device)
    mine = _pair_bandwidths(device)
    gathered: list[dict[Pair, float]] = [{} for _ in range(size)]
    dist.all_gather_object(gathered, mine)
    bandwidth = {pair: value for one in gathered for pair, value in one.items()}
    # A ring sends each byte 2 (n - 1) / n times (Thakur et al. 2005, section 4.5): what it would be of one link.
    ring = ALL_REDUCE_BYTES * 2 * (size - 1) / size / all_reduce
    head = f"all-reduce of {ALL_REDUCE_BYTES // 2**20} MiB: {1e3 * all_reduce:.1f} ms, {_rate(ring)} a link"
    return [head, *table(bandwidth, nodes)]


def table(bandwidth: Mapping[Pair, float], nodes: Sequence[str]) -> list[str]:
    """A line for links within nodes, one for those between them, and one for each slow link or node. Pure.

    Args:
        bandwidth: bytes a second.
    """
    kinds = {
        "within a node": {p: b for p, b in bandwidth.items() if nodes[p[0]] == nodes[p[1]]},
        "between nodes": {p: b for p, b in bandwidth.items() if nodes[p[0]] != nodes[p[1]]},
    }
    lines = []
    for kind, links in kinds.items():
        if not links:
            continue
        values = sorted(links.values())
        lines.append(
            f"links {kind}: {len(values)} measured, slowest {_rate(values[0])}, typical "
            f"{_rate(statistics.median(values))}, fastest {_rate(values[-1])}"
        )
        lines += _slow(links, nodes)
    return lines


def _slow(links: Mapping[Pair, float], nodes: Sequence[str]) -> list[str]:
    # Of the better half: were it of all, most links would have to be fast for any to be called slow.
    reference = statistics.median(sorted(links.values())[len(links) // 2 :])
    slow = {pair: value for pair, value in links.items() if value < SLOW_SHARE * reference}
    lines = []
    for node in dict.fromkeys(nodes):
        own = [pair for pair in links if node in (nodes[pair[0]], nodes[pair[1]])]
        others = [pair for pair in slow if pair not in own]
        if slow and own and all(pair in slow for pair in own) and len(own) < len(links) and not others:
            rate = _rate(statistics.median(slow[pair] for pair in own))
            lines.append(f"warning: every link of {node} is slow, {rate} where {_rate(reference)} is usual")
            slow = {}
    for pair, value in sorted(slow.items(), key=lambda item: item[1])[:MAX_SLOW]:
        a, b = pair
        lines.append(
            f"warning: rank {a} ({nodes[a]}) to rank {b} ({nodes[b]}) is slow, {_rate(value)} where {_rate(reference)} "
            "is usual"
        )
    if len(slow) > MAX_SLOW:
        lines.append(f"warning: and {len(slow) - MAX_SLOW} more slow links")
    return lines


def _all_reduce_seconds(device: Device) -> float:
    data = torch.zeros(ALL_REDUCE_BYTES // 4, device=device.torch_device)
    times = []
    for _ in range(REPEATS + 1):  # the first one opens connections
        _barrier(device)
        began = time.perf_counter()
        dist.all_reduce(data)
        _finish(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _pair_bandwidths(device: Device) -> dict[Pair, float]:
    """Bytes a second of the pairs that this rank is one of.

    In a group of their own that is given up again: NCCL makes each pair a communicator, which holds memory of the GPU.
    """
    rank, found = dist.get_rank(), dict[Pair, float]()
    group = dist.new_group()
    assert isinstance(group, dist.ProcessGroup)
    try:
        for pairs in rounds(dist.get_world_size()):
            for pair in pairs:
                if rank in pair:
                    found[pair] = _pair_bandwidth(device, pair, rank, group)
            _barrier(device)
    finally:
        dist.destroy_process_group(group)
    return found


def _pair_bandwidth(device: Device, pair: Pair, rank: int, group: dist.ProcessGroup) -> float:
    """Bytes a second, there and back, of the best of some exchanges."""
    data = torch.zeros(MESSAGE_BYTES // 4, device=device.torch_device)
    best = 0.0
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        for sender, receiver in (pair, pair[::-1]):
            if rank == sender:
                dist.send(data, receiver, group=group)
            else:
                dist.recv(data, sender, group=group)
        _finish(device)
        best = max(best, 2 * MESSAGE_BYTES / (time.perf_counter() - began))
    return best


def _barrier(device: Device) -> None:
    dist.barrier(device_ids=[torch.cuda.current_device()] if device.kind == "cuda" else None)


def _finish(device: Device) -> None:
    if device.kind == "cuda":
        torch.cuda.synchronize()


def _rate(bytes_a_second: float) -> str:
    return f"{bytes_a_second / 1e9:.2f} GB/s" if bytes_a_second >= 1e9 else f"{bytes_a_second / 1e6:.0f} MB/s"
