"""LAMB over flat tensors that fuse, cut and pad logical ones equals the reference, tensor by tensor, for every option."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_plm.optim.lamb import Lamb
from dist_plm.optim.segment_map import Segment, SegmentMap, Slot
from tests.reference.lamb import ReferenceLamb

SHAPES = [(4, 6), (3, 5), (7,), (2, 9), (5,)]


def weights_of(seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw) for shape in SHAPES]


def gradients_of(step: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=draw) * 3.0**i for i, shape in enumerate(SHAPES)]


def reference_after(steps: int, lr: float = 0.1, **options) -> list[torch.Tensor]:
    weights = weights_of()
    reference = ReferenceLamb(weights, **options)
    for step in range(steps):
        for weight, gradient in zip(weights, gradients_of(step), strict=True):
            weight.grad = gradient
        reference.step(lr)
    return weights


def lamb_over(cuts: list[int], gap: int, **options):
    """All matrices behind each other, and all vectors, each run cut into shards at `cuts` and each shard padded."""
    runs = [[i for i, s in enumerate(SHAPES) if len(s) == dims] for dims in (2, 1)]
    weights, slots, places, segments, groups = weights_of(), [], [], {}, []
    slots = [Slot(str(i)) for i in range(len(SHAPES))]
    for adapt, run in zip((True, options.pop("adapt_vectors", False)), runs, strict=True):
        flat = torch.cat([weights[i].flatten() for i in run])
        owner = torch.cat([torch.full((weights[i].numel(),), i) for i in run])
        edges = sorted({0, flat.numel(), *(cut % flat.numel() for cut in cuts)})
        shards = []
        for first, last in itertools.pairwise(edges):
            shard = torch.nn.Parameter(torch.cat([torch.zeros(gap), flat[first:last], torch.zeros(gap)]))
            found, start = [], gap
            for slot, count in zip(*owner[first:last].unique_consecutive(return_counts=True), strict=True):
                found.append(Segment(start, int(count), int(slot)))
                start += int(count)
            segments[shard] = found
            shards.append(shard)
        decay = options.get("weight_decay", 0.01) if adapt else 0.0
        groups.append({"params": shards, "weight_decay": decay, "adapt": adapt})
        places.append((run, shards, edges))
    optimizer = Lamb(groups, lr=0.1, **options)
    optimizer.bind(SegmentMap(slots, segments))
    return optimizer, places


def run_lamb(steps: int, cuts: list[int], gap: int, **options) -> list[torch.Tensor]:
    optimizer, places = lamb_over(cuts, gap, **options)
    for step in range(steps):
        gradients = gradients_of(step)
        for run, shards, edges in places:
            flat = torch.cat([gradients[i].flatten() for i in run])
            for shard, first, last in zip(shards, edges, edges[1:], strict=False):
                shard.grad = torch.cat([torch.zeros(gap), flat[first:last], torch.zeros(gap)])
        optimizer.step()
    result = weights_of()
    for run, shards, _ in places:
        for shard in shards:
            assert not shard[:gap].any(), "padding moved"
        flat = torch.cat([shard.detach()[gap : shard.numel() - gap] for shard in shards])
        for i, values in zip(run, flat.split([math.prod(SHAPES[i]) for i in run]), strict=True):
            result[i] = values.view(SHAPES[i])
    return result


def agree(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=6), st.integers(0, 3))
def test_shards_and_padding_do_not_matter(cuts, gap):
    agree(run_lamb(3, cuts, gap), reference_after(3))


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"bias_correction": False}, {"bias_correction": False}),
        ({"trust_ratio": (0.01, 0.1)}, {"trust_ratio": (0.01, 0.1)}),
        ({"trust_ratio": (3.0, 10.0)}, {"trust_ratio": (3.0, 10.0)}),
        ({"weight_decay": 0.5}, {"weight_decay": 0.5}),
        ({"betas": (0.5, 0.7), "eps": 0.1}, {"betas": (0.5, 0.7), "eps": 0.1}),
    ],
)
def test_options(options, reference):
    agree(run_lamb(4, [5, 20], 1, **options), reference_after(4, **reference))
    plain = reference_after(4)
    changed = reference_after(4, **reference)
    assert max(float((a - b).abs().max()) for a, b in zip(plain, changed, strict=True)) > 1e-3


def test_all_layers_are_adapted_when_told():
    agree(
        run_lamb(4, [], 0, adapt_vectors=True, weight_decay=0.0),
        reference_after(4, spare_vectors=False, weight_decay=0.0),
    )


def test_norms_of_fragments_would_differ():
    """The segment map matters: each fragment for a layer of its own gives other weights."""
    optimizer, _places = lamb_over([5, 20], 0)
    for group in optimizer.param_groups:
        for shard in group["params"]:
            shard.grad = torch.randn_like(shard)
    shards = [shard for group in optimizer.param_groups for shard in group["params"]]
    lone = {shard: [Segment(0, shard.numel(), i)] for i, shard in enumerate(shards)}
    before = [shard.detach().clone() for shard in shards]
    optimizer.step()
    exact = [shard.detach().clone() for shard in shards]
    for shard, values in zip(shards, before, strict=True):
        shard.data.copy_(values)
    optimizer.state.clear()
    optimizer.bind(SegmentMap([Slot(str(i)) for i in lone], lone))
    optimizer.step()
    assert max(float((a - b.detach()).abs().max()) for a, b in zip(exact, shards, strict=True)) > 1e-3


def test_a_weight_of_zeros_moves_by_the_plain_rate():
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = Lamb([{"params": [weight]}], lr=0.1, weight_decay=0.0, eps=1e-12)
    optimizer.bind(SegmentMap([Slot("w")], {weight: [Segment(0, 4, 0)]}))
    weight.grad = torch.tensor([[1.0, -2.0], [3.0, -4.0]])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([[-0.1, 0.1], [-0.1, 0.1]]))


def test_without_gradients_nothing_moves():
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = Lamb([{"params": [weight]}], lr=0.1)
    optimizer.bind(SegmentMap([Slot("w")], {weight: [Segment(0, 4, 0)]}))
    optimizer.step()
    assert torch.equal(weight.detach(), torch.ones(2, 2))


def test_unbound_and_overlapping_segments_are_our_mistakes():
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = Lamb([{"params": [weight]}], lr=0.1)
    with pytest.raises(AssertionError, match="bound"):
        optimizer.step()
    for wrong in ([Segment(0, 3, 0), Segment(2, 1, 0)], [Segment(0, 0, 0)], [Segment(2, 3, 0)]):
        with pytest.raises(AssertionError):
            SegmentMap([Slot("w")], {weight: wrong})
