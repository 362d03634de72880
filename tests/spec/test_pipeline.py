import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.spec.pipeline import layers_of_chunk


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
