"""Adafactor over flat tensors that fuse, cut and pad logical ones equals transformers' over whole tensors."""

import itertools

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.optim.adafactor import Adafactor, decay_rates
from dist_plm.optim.segment_map import Segment, SegmentMap, Slot, blocks_of

SHAPES = [(4, 6), (7,), (3, 5), (1, 9), (8, 1), (5,)]
STEPS = 4


def weights_of() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw) * 0.01**i for i, shape in enumerate(SHAPES)]


def gradients_of(step: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=draw) * 3.0**i for i, shape in enumerate(SHAPES)]


def expected(lr=0.1, weight_decay=0.0, **options) -> list[torch.Tensor]:
    weights = [torch.nn.Parameter(weight) for weight in weights_of()]
    names = {"update_clip": "clip_threshold", "beta2_decay": "decay_rate"}
    theirs = {names.get(name, name): value for name, value in options.items() if name not in ("eps", "min_scale")}
    theirs["eps"] = (options.get("eps", 1e-30), options.get("min_scale", 1e-3))
    if "decay_rate" in theirs:
        theirs["decay_rate"] = -theirs["decay_rate"]
    optimizer = transformers.Adafactor(weights, lr=lr, relative_step=False, weight_decay=weight_decay, **theirs)
    for step in range(STEPS):
        for weight, gradient in zip(weights, gradients_of(step), strict=True):
            weight.grad = gradient
        optimizer.step()
    return [weight.detach() for weight in weights]


def shards_of(cuts: list[int], gap: int):
    """All tensors behind each other, cut at `cuts`, each shard padded by `gap` elements on both sides; and the segments."""
    flat = torch.cat([weight.flatten() for weight in weights_of()])
    ends = list(itertools.accumulate(weight.numel() for weight in weights_of()))
    edges = sorted({0, flat.numel(), *(cut % flat.numel() for cut in cuts)})
    shards, segments = [], {}
    for first, last in itertools.pairwise(edges):
        shard = torch.nn.Parameter(torch.cat([torch.zeros(gap), flat[first:last], torch.zeros(gap)]))
        segments[shard] = [
            Segment(
                max(first, start) - first + gap, min(last, end) - max(first, start), slot, max(first, start) - start
            )
            for slot, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
            if max(first, start) < min(last, end)
        ]
        shards.append(shard)
    slots = [Slot(str(i), True, shape, (0,) * len(shape), shape) for i, shape in enumerate(SHAPES)]
    return shards, SegmentMap(slots, segments), edges


def actual(cuts: list[int], gap: int, *, group_by_group: bool = False, lr=0.1, **options) -> list[torch.Tensor]:
    shards, segment_map, edges = shards_of(cuts, gap)
    optimizer = Adafactor([{"params": [shard]} for shard in shards], lr=lr, **options)
    optimizer.bind(segment_map)
    for step in range(STEPS):
        flat = torch.cat([gradient.flatten() for gradient in gradients_of(step)])
        for shard, first, last in zip(shards, edges, edges[1:], strict=False):
            shard.grad = torch.cat([torch.zeros(gap), flat[first:last], torch.zeros(gap)])
            if group_by_group:
                optimizer.step()
                shard.grad = None
        if not group_by_group:
            optimizer.step()
    assert all(not shard[:gap].any() for shard in shards), "padding moved"
    flat = torch.cat([shard.detach()[gap : shard.numel() - gap] for shard in shards])
    return [part.view(shape) for part, shape in zip(flat.split([w.numel() for w in weights_of()]), SHAPES, strict=True)]


def agree(ours, theirs):
    for shape, a, b in zip(SHAPES, ours, theirs, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-6, shape


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=8), st.integers(0, 3))
def test_shards_and_padding_do_not_matter(cuts, gap):
    agree(actual(cuts, gap), expected())


@pytest.mark.parametrize(
    "options",
    [
        {"scale_parameter": False},
        {"min_scale": 0.5},
        {"update_clip": 0.2},
        {"beta2_decay": 0.3},
        {"eps": 0.1},
        {"weight_decay": 0.1},
    ],
)
def test_options(options):
    agree(actual([5, 20, 33], 1, **options), expected(**options))
    assert max(float((a - b).abs().max()) for a, b in zip(expected(), expected(**options), strict=True)) > 1e-4


def test_engines_may_update_group_by_group():
    """Each group's logical tensors are then whole, and count their updates by themselves."""
    cuts = list(itertools.accumulate(weight.numel() for weight in weights_of()))
    agree(actual(cuts, 0, group_by_group=True), expected())


def test_means_of_fragments_would_differ():
    """The segment map matters: each fragment for a tensor of its own gives other weights."""
    shards, segment_map, _ = shards_of([10, 20], 0)
    lone = {shard: [Segment(0, shard.numel(), i)] for i, shard in enumerate(shards)}
    results = []
    for one in (segment_map, SegmentMap([Slot(str(i), True, (s.numel(),)) for i, s in enumerate(lone)], lone)):
        copies = {shard: torch.nn.Parameter(shard.detach().clone()) for shard in shards}
        optimizer = Adafactor([{"params": list(copies.values())}], lr=0.1)
        optimizer.bind(SegmentMap(one.slots, {copy: one.segments_of(shard) for shard, copy in copies.items()}))
        for i, copy in enumerate(copies.values()):
            copy.grad = torch.linspace(-1.0, 2.0, copy.numel()) * 3**i
        optimizer.step()
        results.append(torch.cat([copy.detach() for copy in copies.values()]))
    assert float((results[0] - results[1]).abs().max()) > 1e-3


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_blocks_cover_a_run_once(rows, columns, data):
    first = data.draw(st.integers(0, rows * columns - 1))
    length = data.draw(st.integers(1, rows * columns - first))
    top, left = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    slot = Slot("w", True, (9, 9), (top, left), (rows, columns))
    matrix = torch.zeros(9, 9)
    box = torch.arange(rows * columns, dtype=torch.float32).view(rows, columns) + 1
    flat = torch.cat([torch.zeros(2), box.flatten()[first : first + length]])
    blocks = list(blocks_of(Segment(2, length, 0, first), slot))
    assert len(blocks) <= 3
    for block in blocks:
        matrix[block.row : block.row + block.rows, block.column : block.column + block.columns] += block.of(flat)
    whole = torch.zeros(9, 9)
    kept = torch.where((box > first) & (box <= first + length), box, 0.0)
    whole[top : top + rows, left : left + columns] = kept
    assert torch.equal(matrix, whole)


def test_only_vectors_have_moments_of_their_size():
    shards, segment_map, _ = shards_of([], 0)
    optimizer = Adafactor([{"params": shards}], lr=0.1)
    optimizer.bind(segment_map)
    rows, columns = optimizer.means(0)
    assert (rows.shape, columns.shape) == ((4,), (6,))
    matrix = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = Adafactor([{"params": [matrix]}], lr=0.1)
    optimizer.bind(SegmentMap([Slot("w", True, (3, 2), (0, 0), (3, 2))], {matrix: [Segment(0, 6, 0)]}))
    assert not optimizer.state[matrix]
    with pytest.raises(AssertionError, match="bound"):
        Adafactor([{"params": [matrix]}], lr=0.1).step()


@pytest.mark.parametrize("rows", [4096, pytest.param(50257, marks=pytest.mark.slow)])
def test_means_are_exact_at_any_size_however_it_is_cut(rows):
    """The whole, and the same in three shards with cuts in the middle of rows."""
    draw = torch.Generator().manual_seed(0)
    gradient = torch.rand(rows, 768, generator=draw) * torch.rand(rows, 1, generator=draw)
    squares = gradient.double().square()
    for cuts in ([], [rows * 111 + 5, rows * 500 + 11]):
        edges = [0, *cuts, gradient.numel()]
        shards = [torch.nn.Parameter(torch.ones(b - a)) for a, b in itertools.pairwise(edges)]
        segments = {shard: [Segment(0, shard.numel(), 0, a)] for shard, a in zip(shards, edges, strict=False)}
        optimizer = Adafactor([{"params": shards}], lr=0.1)
        shape = tuple(gradient.shape)
        optimizer.bind(SegmentMap([Slot("w", True, shape, (0, 0), shape)], segments))
        for shard, a in zip(shards, edges, strict=False):
            shard.grad = gradient.view(-1)[a : a + shard.numel()].clone()
        optimizer.step()
        for mean, dim in zip(optimizer.means(0), (1, 0), strict=True):
            torch.testing.assert_close(mean.double(), squares.mean(dim), rtol=3e-7, atol=0.0)


def test_rates_are_of_the_number_of_updates_alone():
    """Wherever among others it stands: stages of a pipeline hold tied embeddings at other places."""
    steps = torch.arange(1.0, 500.0)
    alone = torch.cat([decay_rates(one, 0.8) for one in steps.view(-1, 1)])
    assert torch.equal(decay_rates(steps, 0.8), alone)
