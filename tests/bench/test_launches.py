"""What one microbatch dispatches, beside `transformers`: on CUDA each operation is a kernel to launch."""

import re
import sys
from pathlib import Path

import pytest
import torch

from dist_plm.distributed.grid import Grid
from dist_plm.distributed.groups import build_groups
from tests.ranks.pool import World
from tests.ranks.times import LONG

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from launches import BOUND, Launches, _one_attention, compare  # pyright: ignore[reportMissingImports]
from launches_peers import CASES  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).parents[2]


def counted(world: World) -> dict[str, tuple[int, int]]:
    groups = build_groups(Grid(), world.device, timeout=LONG)
    return {name: (ours.total, theirs.total) for name in CASES for ours, theirs in [compare(name, groups)]}


@pytest.fixture(scope="module")
def counts(ranks):
    (found,) = ranks.run(1, counted)
    return found


def test_the_page_shows_what_is_counted(counts):
    """Other releases of libraries move a ratio by less."""
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    shown = {name: float(ratio) for name, ratio in re.findall(r"^(\w+)(?: +\d+){6} +(\d\.\d\d)$", page, re.M)}
    assert shown == {name: pytest.approx(ours / theirs, abs=0.01) for name, (ours, theirs) in counts.items()}


def test_a_microbatch_dispatches_three_quarters_of_the_peers_operations(counts):
    assert not [name for name, (ours, theirs) in counts.items() if ours > BOUND * theirs], counts


def test_views_are_free_and_waits_are_told():
    x = torch.randn(4, 4)
    with Launches() as found:
        (x.view(16)[3:].reshape(13, 1) + 1).transpose(0, 1).sum().item()
        x[x > 0]
    assert found.counts == {"aten::add": 1, "aten::sum": 1, "aten::gt": 1, "aten::index": 1}
    assert found.waits == {"aten::_local_scalar_dense": 1, "aten::index": 1}


def test_a_peer_that_drops_attention_weights_is_counted_as_on_a_gpu():
    query = torch.randn(2, 2, 8, 4, requires_grad=True)
    with _one_attention(), Launches() as found:
        torch.nn.functional.scaled_dot_product_attention(query, query, query, dropout_p=0.1)
    assert found.counts.total() == 1
