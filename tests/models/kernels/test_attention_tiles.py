"""What the attention kernels take of a GPU's shared memory, compiled for GPUs that are not here."""

import itertools
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is there on Linux alone")

from dist_plm.models.kernels.gpu.attention_tiles import KERNELS, TILES, Tile, fitting, shared_bytes
from tests.models.kernels.compiled import LIMITS, TYPES, chosen
from tests.ranks.selection import covering

TARGETS = [
    *itertools.product((80, 86, 90), ("bf16", "fp32"), (64, 128, 256)),
    *itertools.product((75,), ("fp16", "fp32"), (64,)),
    (75, "fp16", 128),
    (100, "bf16", 128),
    (120, "bf16", 128),
]


@pytest.mark.parametrize(("capability", "name", "head_size"), covering(TARGETS, [(86, "bf16", 128)]))
def test_kernels_fit_shared_memory(capability, name, head_size):
    tiles = chosen(capability, name, head_size)
    command = [sys.executable, "-m", "tests.models.kernels.compiled", str(capability), name, str(head_size)]
    told = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "0"}, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    for kernel in KERNELS:
        tile = tiles[kernel]
        assert tile is not None
        bound = shared_bytes(kernel, tile, head_size, TYPES[name].itemsize, capability // 10)
        assert max(found[kernel]) <= bound <= LIMITS[capability], (kernel, tile)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("head_size", [64, 128])
def test_what_was_measured_on_an_h100_stays(kernel, head_size):
    assert fitting(kernel, head_size, 2, 9, LIMITS[90]) == Tile(64, 64, 4, 3)
    assert fitting(kernel, head_size, 4, 9, LIMITS[90]) == Tile(32, 32, 4, 3)


def test_what_fits_nowhere_has_no_tile():
    assert fitting("backward_keys", 4096, 4, 9, LIMITS[90]) is None
    assert fitting("backward_keys", 128, 2, 8, LIMITS[86]) == Tile(64, 64, 4, 2), (
        "fewer stages come before smaller tiles"
    )
    assert all(tile.queries == tile.keys for tiles in TILES.values() for tile in tiles)
