"""What a hostile or damaged pickle says is not done."""

import argparse
import contextlib
import io
import os
import pickle
import signal
import zipfile
from pathlib import Path, PosixPath

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.enums import ModelType
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from dist_plm.checkpoint.io.metadata_pickle import Inert
from dist_plm.checkpoint.io.outline import read_outline
from dist_plm.checkpoint.io.unpickler import load_file, load_metadata
from dist_plm.core.errors import CheckpointError

#: Of PyTorch's classes, and of none.
both_readers = pytest.mark.parametrize("read", [load_metadata, read_outline])
MARK = "dist_plm_was_tricked"


class Trick:
    """Makes a directory when it is unpickled as pickle does."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path / MARK),)


def metadata():
    chunk = ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([2, 3]))
    return Metadata({"w": TensorStorageMetadata(TensorProperties(torch.bfloat16), torch.Size([2, 3]), [chunk])})


def test_metadata_comes_back():
    assert load_metadata(io.BytesIO(pickle.dumps(metadata()))) == metadata()


def test_an_outline_tells_of_tensors_and_where_they_lie():
    made = metadata()
    (tensor,) = made.state_dict_metadata.values()
    made.storage_data = {MetadataIndex("w", torch.Size([0, 0]), 0): _StorageInfo("__0_0.distcp", 512, 4096)}
    outline = read_outline(io.BytesIO(pickle.dumps(made)))
    assert outline.shapes == {"w": (2, 3)}
    assert outline.boxes == {"w": [("__0_0.distcp", 512, 4096, 6)]}
    made.state_dict_metadata["v"] = tensor
    with pytest.raises(pickle.UnpicklingError, match="it does not tell where v lies"):
        read_outline(io.BytesIO(pickle.dumps(made)))


@both_readers
def test_metadata_may_not_name_functions(tmp_path, read):
    evil = metadata()
    evil.planner_data = Trick(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match=r"posix\.mkdir"):
        read(io.BytesIO(pickle.dumps(evil)))
    assert not (tmp_path / MARK).exists()
    pickle.loads(pickle.dumps(evil))
    assert (tmp_path / MARK).exists(), "the trick works on those who fall for it"


@both_readers
@pytest.mark.parametrize("value", [torch.nn.Linear, torch.load, Path, eval, print])
def test_metadata_may_not_name_other_things(value, read):
    data = pickle.dumps(value)
    if value is Path:
        with pytest.raises(pickle.UnpicklingError, match="it holds"):
            read(io.BytesIO(data))
    else:
        with pytest.raises(pickle.UnpicklingError, match="no place in a checkpoint"):
            read(io.BytesIO(data))


@both_readers
@given(place=st.integers(0, len(pickle.dumps(metadata())) - 1), bit=st.integers(0, 7))
def test_damage_is_an_error_of_one_kind(read, place, bit):
    data = bytearray(pickle.dumps(metadata()))
    data[place] ^= 1 << bit
    with contextlib.suppress(pickle.UnpicklingError, EOFError):
        read(io.BytesIO(bytes(data)))


@both_readers
@pytest.mark.parametrize("name", ["offsets", "sizes", "chunks", "size", "state_dict_metadata"])
@pytest.mark.parametrize("way", ["renamed", "of another kind"])
def test_metadata_whose_objects_are_not_whole_are_refused(name, way, read):
    """One flipped bit in the name of an attribute leaves an object without it."""
    made = metadata()
    (tensor,) = made.state_dict_metadata.values()
    (thing,) = [one for one in (made, tensor, tensor.chunks[0]) if hasattr(one, name)]
    value = thing.__dict__.pop(name)
    if way == "renamed":
        thing.__dict__[f"{name}s"] = value
    else:
        thing.__dict__[name] = "text"
    with pytest.raises(pickle.UnpicklingError, match=f"it holds a {type(thing).__name__} whose {name} is none"):
        read(io.BytesIO(pickle.dumps(made)))


def test_files_hold_what_trainers_put_in_them(tmp_path):
    args = argparse.Namespace(layers=3, kind=ModelType.encoder_or_decoder, signal=signal.SIGTERM, path=PosixPath("x"))
    torch.save({"args": args, "w": torch.arange(3.0), "iteration": 7}, tmp_path / "common.pt")
    found = load_file(tmp_path / "common.pt")
    assert found["iteration"] == 7
    assert found["w"].tolist() == [0, 1, 2]
    assert isinstance(found["args"], Inert)
    assert found["args"].layers == 3
    assert isinstance(found["args"].kind, Inert)


def test_files_may_not_name_functions(tmp_path):
    torch.save({"w": torch.zeros(2), "x": Trick(tmp_path)}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt names posix\.mkdir"):
        load_file(tmp_path / "evil.pt")
    assert not (tmp_path / MARK).exists()


def test_a_function_under_a_harmless_name_is_not_called(tmp_path):
    """numpy is stood in for as a whole: whatever is named below it does nothing."""
    data = b"\x80\x02cnumpy.f2py\nrun_main\n]X\x01\x00\x00\x00xa\x85R."
    torch.save({}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "odd.pt", "w") as odd:
        for name in plain.namelist():
            odd.writestr(name, data if name.endswith("data.pkl") else plain.read(name))
    assert isinstance(load_file(tmp_path / "odd.pt"), Inert)


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_truncated_file_is_named(tmp_path, length):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"w\.pt cannot be read"):
        load_file(tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"nowhere\.pt cannot be read"):
        load_file(tmp_path / "nowhere.pt")
