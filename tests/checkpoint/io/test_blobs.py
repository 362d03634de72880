"""Files of tensors: PyTorch's own reader opens what is written here, and what its own writer wrote is read here."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from dist_plm.checkpoint.fragments import Fragment, cut
from dist_plm.checkpoint.io.blobs import LocalReader, LocalWriter
from dist_plm.checkpoint.io.direct_io import write_file
from dist_plm.checkpoint.planner import FragmentSavePlanner, TensorReader
from dist_plm.models.sharding import Shard

SHAPES = {"model.matrix": (50, 30), "model.vector": (7,), "optimizer.exp_avg.cube": (4, 5, 6)}


def tensors():
    torch.manual_seed(0)
    return {name: torch.randn(shape) for name, shape in SHAPES.items()}


def whole(name):
    zeros = (0,) * len(SHAPES[name])
    return Shard(name, SHAPES[name], zeros, zeros, SHAPES[name])


def write(writer):
    boxes = [(name, box) for name in SHAPES for box in cut(whole(name), 1000)]
    values = tensors()
    fragments = [Fragment(name, box.shape, box.start, box.local(values[name]).clone()) for name, box in boxes]
    save({}, storage_writer=writer, planner=FragmentSavePlanner(fragments), no_dist=True)


@pytest.fixture(scope="module", params=["ours", "pytorch's"])
def written(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("written")
    writer = LocalWriter(directory) if request.param == "ours" else FileSystemWriter(directory)
    if isinstance(writer, LocalWriter):
        writer.put = lambda target, parts: write_file(
            target, (part if isinstance(part, bytes) else part.view(-1).numpy().data for part in parts)
        )
    write(writer)
    return directory


def reader_of(directory):
    reader = LocalReader(directory)
    return TensorReader(reader, reader.read_metadata())


def test_pytorch_opens_it(written):
    state = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    load(state, storage_reader=FileSystemReader(written), no_dist=True)
    for name, values in tensors().items():
        assert state[name].equal(values)


@given(data=st.data())
def test_any_box_is_read_into_any_place(written, data):
    reader, expected = reader_of(written), tensors()
    name = data.draw(st.sampled_from(sorted(SHAPES)))
    start = tuple(data.draw(st.integers(0, n - 1)) for n in SHAPES[name])
    size = tuple(data.draw(st.integers(1, n - a)) for n, a in zip(SHAPES[name], start, strict=True))
    room = torch.full([n + data.draw(st.integers(0, 2)) for n in size], torch.nan)
    target = room[tuple(slice(0, n) for n in size)]
    reader.read_shards([(name, Shard(name, SHAPES[name], start, (0,) * len(start), size), target)])
    assert target.equal(expected[name][tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))])
    assert int(room.isnan().sum()) == room.numel() - target.numel(), "nothing beside it is written"


def test_a_file_that_is_not_what_metadata_says_is_refused(written):
    file = written / "__0_0.distcp"
    content = file.read_bytes()
    reader = reader_of(written)
    try:
        file.write_bytes(bytes(len(content)))
        with pytest.raises(OSError, match=r"__0_0.distcp does not hold model.matrix"):
            reader.read_whole("model.matrix")
        file.write_bytes(content[: len(content) // 3])
        with pytest.raises(OSError, match=r"ends in the middle|does not hold"):
            reader.read_whole("optimizer.exp_avg.cube")
    finally:
        file.write_bytes(content)
