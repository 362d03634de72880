import os
import subprocess
import sys

import pytest
import torch

from dist_plm.checkpoint import streaming
from dist_plm.checkpoint.open_checkpoint import look_at
from dist_plm.checkpoint.storage import LATEST, LocalStorage, Storage
from dist_plm.checkpoint.streaming import write_checkpoint
from dist_plm.checkpoint.train_state import TrainState

TRAIN_STATE = TrainState(step=7, samples_seen=56, engine={"optimizer_steps": 7}, stream={})

MEASURE = """
import resource, sys, torch
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.checkpoint.streaming import write_checkpoint
from tests.checkpoint.test_streaming import TRAIN_STATE
for name, count in (("one", 1), ("many", 24)):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shapes = {f"model.{number}": (1024, 1024) for number in range(count)}
    write_checkpoint(LocalStorage(f"{sys.argv[1]}/{name}"), TRAIN_STATE, shapes, lambda box: torch.ones(box.size))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def weights():
    torch.manual_seed(0)
    return {
        "model.a": torch.randn(5, 3),
        "model.b": torch.randn(4, dtype=torch.bfloat16),
        "optimizer.m.a": torch.ones(2, 2, 2),
    }


@pytest.mark.parametrize("make", [LocalStorage, lambda path: Storage(f"memory://{path}")])
def test_what_was_written_is_read(tmp_path, monkeypatch, make):
    monkeypatch.setattr(streaming, "FILE_BYTES", 40)  # a file for each of the tensors
    storage, tensors = make(tmp_path / "out"), weights()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    write_checkpoint(storage, TRAIN_STATE, shapes, lambda box: box.whole(tensors[box.name]), {"note.txt": b"hello"})
    found, problems = look_at(storage.where())
    assert problems == []
    assert found.train_state.step == 7
    assert found.train_state.files["note.txt"].bytes == 5
    assert {name for name in found.train_state.files if name.endswith(".distcp")} == {
        f"__0_{n}.distcp" for n in range(3)
    }
    for name, tensor in tensors.items():
        assert torch.equal(found.tensors.read_whole(name), tensor.float())
    held = [storage.read(found.name, name) for name in found.train_state.files]
    assert not any(str(tmp_path).encode() in content for content in held), "an address may hold a credential"


def test_nothing_stays_of_what_fails(tmp_path):
    storage = LocalStorage(tmp_path / "out")

    def read(box):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        write_checkpoint(storage, TRAIN_STATE, {"model.a": (3,)}, read)
    assert list((tmp_path / "out").iterdir()) == []


def test_tensors_are_in_memory_one_at_a_time(tmp_path):
    """24 tensors of 4 MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
        check=True,
    )
    assert int(done.stdout) * 1024 < 40 * 2**20
    assert (tmp_path / "many" / LATEST).exists()
