import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.spec.pipeline import balanced_layers, layers_of_chunk, loss_chunk_rows


@given(each=st.integers(1, 4), stages=st.integers(1, 5), chunks=st.integers(1, 4))
def test_every_layer_is_held_once_and_chunks_follow_each_other(each, stages, chunks):
    total = each * stages * chunks
    order = [layers_of_chunk(total, stage, stages, chunk, chunks) for chunk in range(chunks) for stage in range(stages)]
    assert [layer for held in order for layer in held] == list(range(total))


@pytest.mark.parametrize(
    ("stage", "chunk", "expected"), [(0, 0, [0, 1]), (1, 0, [2, 3]), (0, 1, [4, 5]), (1, 1, [6, 7])]
)
def test_figure_4_of_narayanan_2021(stage, chunk, expected):
    assert list(layers_of_chunk(8, stage, 2, chunk, 2)) == expected


def test_chunks_hold_as_many_as_is_said_in_the_order_of_the_model():
    held = [[list(layers_of_chunk(6, stage, 2, chunk, 2, (1, 2, 2, 1))) for chunk in (0, 1)] for stage in (0, 1)]
    assert held == [[[0], [3, 4]], [[1, 2], [5]]]


@given(layers=st.integers(1, 9), stages=st.integers(1, 4), head=st.sampled_from([0.0, 0.3, 1.0, 2.4, 20.0]))
def test_no_cut_has_a_faster_slowest_stage(layers, stages, head):
    if stages > layers:
        return

    def slowest(held):
        return max(*held[:-1], held[-1] + head) if stages > 1 else held[-1] + head

    held = [range(1, layers + 1)] * (stages - 1) + [range(layers + 1)]  # the last has the head as well
    cuts = (cut for cut in itertools.product(*held) if sum(cut) == layers)
    balanced = balanced_layers(layers, stages, head)
    assert sum(balanced) == layers
    assert min(balanced[:-1], default=1) >= 1
    assert balanced[-1] >= (head == 0)
    assert slowest(balanced) == min(map(slowest, cuts))


def test_as_many_layers_as_anybody_may_type_are_cut_at_once():
    assert balanced_layers(10**12 + 3, 4, 2.0) == (250000000001, 250000000001, 250000000001, 250000000000)


@given(tokens=st.integers(0, 5000), width=st.integers(1, 3000), chunk_bytes=st.integers(1, 2**22))
def test_chunks_of_a_loss_are_few_and_even(tokens, width, chunk_bytes):
    rows, most = loss_chunk_rows(tokens, width, chunk_bytes), max(1, chunk_bytes // (4 * width))
    assert 1 <= rows <= most
    whole_tiles = most // 128 * 128 if most > 128 else most
    chunks = -(-tokens // rows)
    assert chunks == -(-tokens // whole_tiles)
    # Rows beyond an even share: less than a tile.
    assert rows * chunks - tokens < max(1, chunks) * (128 if most > 128 else 1)


def test_chunks_of_a_loss_over_2048_tokens():
    assert loss_chunk_rows(2048, 50_304) == 512
