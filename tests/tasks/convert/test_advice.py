"""What convert and inspect= advise about checkpoints that cannot be used, which is not what training advises."""

import shutil

import pytest
import torch

from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.checkpoint.streaming import write_checkpoint
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.core.errors import CheckpointError
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.convert import convert
from dist_plm.tasks.convert.inspection import inspect

TRAIN_STATE = TrainState(step=7, samples_seen=56, engine={"optimizer_steps": 7}, stream={})


def without(name):
    return lambda step: (step / name).unlink()


WRONG = {
    "damaged": lambda step: (step / "checkpoint.json").write_text("{"),
    "incomplete": without("checkpoint.json"),
    "renamed": lambda step: step.rename(step.with_name("step_00000009")),
    "settings that are none": lambda step: None,
}


@pytest.fixture(params=WRONG)
def step(request, tmp_path):
    files = {"run.yaml": b"model: [\n"} if request.param == "settings that are none" else {}
    write_checkpoint(LocalStorage(tmp_path), TRAIN_STATE, {"model.a": (2,)}, lambda piece: torch.zeros(2), files)
    WRONG[request.param](tmp_path / "step_00000007")
    return next(path for path in tmp_path.iterdir() if path.is_dir())


def test_advice_fits_the_command(step, tmp_path):
    with pytest.raises(CheckpointError, match=r"; choose another checkpoint$") as caught:
        convert(ConvertConfig(from_=str(step), to=str(tmp_path / "out"), format="hf"))
    assert "train.resume" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    if not (step / "run.yaml").exists():
        with pytest.raises(CheckpointError, match=r"; name another checkpoint or run with inspect=$"):
            inspect(str(step))


def test_inspect_says_what_others_wrote(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is a directory of Hugging Face; make a checkpoint of it with .*from="):
        inspect(str(tmp_path))
    shutil.rmtree(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is nothing at .*; name another checkpoint or run with inspect=$"):
        inspect(str(tmp_path))
