import io
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_plm.checkpoint.io.envelope import envelope
from dist_plm.checkpoint.io.outline import HEAD_BYTES, values_at


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(0, 9))
def test_around_the_values_it_is_what_pytorch_loads(shape, seed):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    head, tail = envelope(tuple(shape))
    archive = head + values.numpy().tobytes() + tail
    assert torch.load(io.BytesIO(archive), weights_only=True).equal(values)
    assert values_at(archive[:HEAD_BYTES]) == len(head)


def test_nothing_in_it_differs_from_save_to_save():
    """Equal checkpoints have equal files. PyTorch's id of an archive without CRC32 holds what lay on the stack."""
    _, tail = envelope((128,))
    (told,) = re.findall(rb"\d{40}", tail)
    assert told.endswith(b"0" * 20)
    assert not told.startswith(b"0" * 20)


@pytest.mark.parametrize("shape", [(1,), (300, 1000)])
def test_values_are_found_in_what_pytorch_saves(shape):
    values, archive = torch.randn(shape), io.BytesIO()
    torch.save(values, archive)
    begin = values_at(archive.getvalue()[:HEAD_BYTES])
    assert archive.getvalue()[begin : begin + values.nbytes] == values.numpy().tobytes()


def test_values_are_not_found_where_there_are_none():
    archive = io.BytesIO()
    torch.save({"a": 1}, archive)
    assert values_at(archive.getvalue()[:HEAD_BYTES]) is None
    assert values_at(b"") is None
