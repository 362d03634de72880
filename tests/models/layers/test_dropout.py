import torch

from dist_plm.models.layers.dropout import Site, hidden_dropout, score_dropout
from dist_plm.models.sequence_context import SequenceContext

CONTEXT = SequenceContext(causal=True, samples=(11, 12, 13), seed=5)
WHOLE = {"slice_index": 0, "num_slices": 1}


def drop(context=CONTEXT, layer=3, site=Site.MLP_OUTPUT, shape=(64, 3, 32), **slices):
    return hidden_dropout(torch.ones(shape), 0.25, context, layer, site, **(slices or WHOLE))


def test_rate_and_scale():
    dropped = drop(shape=(512, 3, 128))
    zeros = (dropped == 0).float().mean().item()
    sigma = (0.25 * 0.75 / dropped.numel()) ** 0.5
    assert abs(zeros - 0.25) < 4 * sigma
    assert torch.allclose(dropped[dropped != 0], torch.tensor(1 / 0.75))


def test_slices_of_the_sequence_are_slices_of_the_mask():
    parts = [drop(shape=(16, 3, 32), slice_index=i, num_slices=4) for i in range(4)]
    assert torch.equal(torch.cat(parts), drop())


def test_a_sample_is_dropped_alike_whatever_shares_its_microbatch():
    alone = drop(SequenceContext(causal=True, samples=(12,), seed=5), shape=(64, 1, 32))
    assert torch.equal(alone[:, 0], drop()[:, 1])


def test_every_part_of_the_key_counts():
    base = drop()
    others = [
        drop(SequenceContext(causal=True, samples=(11, 12, 13), seed=6)),
        drop(layer=4),
        drop(site=Site.ATTENTION_OUTPUT),
        drop(SequenceContext(causal=True, samples=(14, 15, 16), seed=5)),
    ]
    assert not any(torch.equal(base, other) for other in others)
    assert torch.equal(base, drop())


def test_heads_of_a_tensor_rank_are_dropped_as_in_the_whole_model():
    scores = torch.rand(3, 4, 8, 8)
    whole = score_dropout(scores, 0.5, CONTEXT, 0, first_head=0, block=0)
    upper = score_dropout(scores[:, 2:], 0.5, CONTEXT, 0, first_head=2, block=0)
    assert torch.equal(whole[:, 2:], upper)
    assert not torch.equal(whole[:, :2] == 0, whole[:, 2:] == 0)
