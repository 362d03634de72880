"""Chooses how many queries and keys the attention kernels work on at a time: the most of what has been measured that fits the
shared memory of the GPU at hand. Masks and results do not depend on it, but for the order of sums."""

import functools
from typing import NamedTuple

import torch

from dist_plm.core.errors import ConfigError


class Tile(NamedTuple):
    """Holds the queries and keys that one program works on at a time, and by how many warps and stages of loading."""

    queries: int
    keys: int
    warps: int
    stages: int


#: By the bytes of a number, the preferred first: fewer stages of loading cost less than smaller tiles.
TILES = {
    2: (Tile(64, 64, 4, 3), Tile(64, 64, 4, 2), Tile(32, 32, 4, 3), Tile(32, 32, 4, 2), Tile(16, 16, 4, 2)),
    4: (Tile(32, 32, 4, 3), Tile(32, 32, 4, 2), Tile(16, 16, 4, 2)),
}
KERNELS = ("forward", "backward_queries", "backward_keys")
#: Operands that stay in shared memory while a loop loads two more, of queries or of keys and values.
_HELD = {"forward": 1, "backward_queries": 2, "backward_keys": 2}
#: GPUs of compute capability 10 hold copies of what they multiply.
_HELD_10 = {"forward": 1, "backward_queries": 4, "backward_keys": 6}
#: Operands there before Ampere, which loads nothing ahead, and lays registers out anew by way of it.
_UNSTAGED = {"forward": 4, "backward_queries": 6, "backward_keys": 10}


def shared_bytes(kernel: str, tile: Tile, head_size: int, itemsize: int, major: int) -> int:
    """Bounds what Triton takes of shared memory. Tests compile the kernels and compare.

    Args:
        major: of the GPU's compute capability. 9 and 10 multiply what lies in shared memory, and load one stage more.
    """
    if major < 8:
        operands = _UNSTAGED[kernel]
    else:
        held = _HELD_10 if major == 10 else _HELD
        operands = held[kernel] + 2 * (tile.stages if major in (9, 10) else tile.stages - 1)
    biases = tile.stages if itemsize == 4 else 2  # of fp32 they are loaded ahead like keys
    operand = max(tile.queries, tile.keys) * padded(head_size)
    return (operands * operand + biases * tile.queries * tile.keys) * itemsize + 2048


def fitting(kernel: str, head_size: int, itemsize: int, major: int, limit: int) -> Tile | None:
    """Gives the preferred tile of those that fit into `limit` bytes."""
    for tile in TILES[itemsize]:
        if shared_bytes(kernel, tile, head_size, itemsize, major) <= limit:
            return tile
    return None


@functools.cache
def tile_on(kernel: str, head_size: int, itemsize: int, device: torch.device) -> Tile | None:
    """Chooses the tile of a kernel on a device; None where none fits."""
    if device.type != "cuda":  # Triton's interpreter
        return TILES[itemsize][0]
    gpu = torch.cuda.get_device_properties(device)
    return fitting(kernel, head_size, itemsize, gpu.major, gpu.shared_memory_per_block_optin)


def has_tiles(head_size: int, itemsize: int, device: torch.device) -> bool:
    """Tells whether each kernel has a tile that fits."""
    return all(tile_on(kernel, head_size, itemsize, device) is not None for kernel in KERNELS)


def check_tiles(head_size: int, itemsize: int, device: torch.device) -> None:
    """Refuses dropout where a kernel that it needs does not fit.

    Raises:
        ConfigError: heads are too large for the device.
    """
    if device.type == "cuda" and not has_tiles(head_size, itemsize, device):
        gpu = torch.cuda.get_device_properties(device)
        raise ConfigError(
            [
                f"model.attention_dropout > 0 with heads of {head_size} needs more than the "
                f"{gpu.shared_memory_per_block_optin:,} bytes of shared memory that {gpu.name} has: "
                "set model.attention_dropout=0.0"
            ]
        )


def padded(head_size: int) -> int:
    """Gives the power of 2 that a head takes in a tile."""
    return max(16, 1 << (head_size - 1).bit_length())
