"""How many queries and keys the attention kernels work on at a time."""

from typing import NamedTuple


class Tile(NamedTuple):
    """Holds the queries and keys that one program works on at a time, and by how many warps and stages of loading."""

    queries: int
    keys: int
    warps: int
    stages: int


#: By kernel, where numbers have 2 bytes, and where they have 4: what a multiprocessor can hold.
TILES = {
    "forward": {2: Tile(64, 64, 4, 3), 4: Tile(32, 32, 4, 3)},
    "backward_queries": {2: Tile(64, 64, 4, 3), 4: Tile(32, 32, 4, 3)},
    "backward_keys": {2: Tile(64, 64, 4, 3), 4: Tile(32, 32, 4, 3)},
}
