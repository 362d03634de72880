"""Pieces of memory are joined where nothing else lies between."""

import torch

from dist_plm.engines.megatron.gradient_runs import joined


def parts(memory, *bounds):
    return [memory[begin:end] for begin, end in bounds]


def places(runs):
    return sorted((run.storage_offset(), run.numel()) for run in runs)


def test_pieces_side_by_side_are_one_whatever_their_order_and_shape():
    memory = torch.arange(12.0)
    a, b, c = parts(memory, (0, 4), (4, 8), (8, 12))
    (run,) = joined([c, a.view(2, 2), b], [a, b, c])
    assert torch.equal(run, memory)
    run.zero_()
    assert not memory.any(), "it is the memory itself"


def test_what_is_left_out_parts_them():
    memory = torch.arange(12.0)
    a, b, c = parts(memory, (0, 4), (4, 8), (8, 12))
    assert places(joined([a, c], [a, b, c])) == [(0, 4), (8, 4)]
    assert places(joined([b, c], [a, b, c])) == [(4, 8)]


def test_what_fills_the_space_between_is_joined():
    memory = torch.zeros(64)
    a, b, c = parts(memory, (0, 5), (16, 20), (32, 64))
    assert places(joined([a, b, c], [a, b, c])) == [(0, 64)]
    assert places(joined([a, c], [a, b, c])) == [(0, 5), (32, 32)]


def test_shards_of_parameters_are_parted_by_what_other_ranks_hold_of_them():
    memory = torch.zeros(40)
    a, b, c = parts(memory, (0, 10), (10, 30), (30, 40))
    assert places(joined([a[4:], b[:6]], [a, b, c])) == [(4, 12)]
    assert places(joined([a, b[6:], c], [a, b, c])) == [(0, 10), (16, 24)]
    assert places(joined([b[:6], c], [a, b, c])) == [(10, 6), (30, 10)]


def test_memories_are_kept_apart():
    one, other = torch.zeros(8), torch.zeros(8)
    pieces = [*parts(one, (0, 4), (4, 8)), *parts(other, (0, 4), (4, 8))]
    assert [run.numel() for run in joined(pieces, pieces)] == [8, 8]
    assert joined([], pieces) == []
