"""checkpoint.json of unknown hands whose checksum fits: refused with one message, whatever it says."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.open_checkpoint import find, look_at
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.checkpoint.streaming import write_checkpoint
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.core.errors import CheckpointError
from tests.checkpoint.poison import forge

#: For each field values that are not one.
WRONG = {
    "step": [None, True, -1, 1.5, 10**400, "7", [], {}, float("nan")],
    "samples_seen": [None, False, -1, 0.5, 2**63, "56", [56], {}],
    "engine": [
        *(None, [], "x", {"loss_scale": 1.0}, {"optimizer_steps": -1}, {"optimizer_steps": 1.5}),
        *({"optimizer_steps": True}, {"optimizer_steps": 7, "a": "x"}, {"optimizer_steps": 7, "a": 10**400}),
    ],
    "stream": [None, [], "x", 1],
    "history": [
        *(None, {}, "x", [1], [{}], [{"step": 1}], [{"step": 1, "changes": "x"}], [{"step": 1, "changes": [1]}]),
        *([{"step": -1, "changes": []}], [{"step": 1, "changes": [], "more": 1}]),
    ],
    "evaluation": [None, [], "x", {"loss": "1"}, {"loss": None}, {"loss": True}, {"loss": 10**400}],
    "loop": [None, [], "x", 1],
    "files": [
        *(None, [], "x", {"a": None}, {"a": [1, "0" * 32]}, {"a": {"bytes": 1}}, {"a": {"bytes": 1, "checksum": "x"}}),
        *({name: {"bytes": 1, "checksum": "1" * 32}} for name in ("../../secret", "..", "", "/etc/passwd")),
        {"a": {"bytes": True, "checksum": "1" * 32}},
    ],
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    directory = tmp_path_factory.mktemp("original")
    write_checkpoint(
        LocalStorage(directory),
        TrainState(step=7, samples_seen=56, engine={"optimizer_steps": 7}, stream={}),
        {"model.a": (3,), "optimizer.exp_avg.a": (3,)},
        lambda piece: torch.ones(piece.size),
    )
    return directory


@pytest.fixture
def checkpoint(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run") / "step_00000007"


def content_of(checkpoint: Path) -> dict:
    return json.loads((checkpoint / state_file.NAME).read_text())


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_each_field_is_what_it_is_or_refused(checkpoint, name, value):
    forge(checkpoint, {**content_of(checkpoint), name: value})
    for look in (lambda: look_at(str(checkpoint)), lambda: find("auto", LocalStorage(checkpoint.parent), None)):
        with pytest.raises(CheckpointError, match=f"`{name}` is not"):
            look()


@pytest.mark.parametrize("name", WRONG)
def test_each_field_is_there_and_no_other(checkpoint, name):
    content = content_of(checkpoint)
    forge(checkpoint, {key: value for key, value in content.items() if key != name})
    with pytest.raises(CheckpointError, match=f"`{name}` is missing"):
        look_at(str(checkpoint))
    forge(checkpoint, {**content, f"{name}2": 1})
    with pytest.raises(CheckpointError, match=f"`{name}2` has no meaning"):
        look_at(str(checkpoint))


@pytest.mark.parametrize("value", [[], "text", 1, None, {}])
def test_other_json_is_refused(checkpoint, value):
    forge(checkpoint, value)
    with pytest.raises(CheckpointError):
        look_at(str(checkpoint))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 50_000, '{"step": ' + "9" * 5000 + "}", "\ud800"])
def test_hostile_text_is_refused(checkpoint, text):
    (checkpoint / state_file.NAME).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match="is damaged"):
        look_at(str(checkpoint))


def test_its_step_is_that_of_its_name(checkpoint):
    renamed = checkpoint.rename(checkpoint.with_name("step_00000009"))
    for look in (lambda: look_at(str(renamed)), lambda: find(str(renamed), LocalStorage("nowhere"), None)):
        with pytest.raises(CheckpointError, match="step_00000009 was saved after step 7"):
            look()
    elsewhere = renamed.rename(renamed.with_name("my_favourite"))
    assert look_at(str(elsewhere))[0].train_state.step == 7


def test_an_engine_that_says_nothing_is_no_new_beginning(checkpoint):
    forge(checkpoint, {**content_of(checkpoint), "engine": {}})
    found, _ = look_at(str(checkpoint))
    assert not found.is_weights_only
    with pytest.raises(CheckpointError, match="does not tell of how many updates"):
        found.check_model([], None)


@pytest.mark.parametrize("name", ["checkpoint.json", "../latest", "__0_0.distcp", ".metadata"])
@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_what_is_no_file_is_not_waited_for(checkpoint, name, kind):
    path = checkpoint / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    try:
        problems = look_at(str(checkpoint.parent))[1]
    except CheckpointError as error:
        problems = [str(error)]
    assert problems
    with pytest.raises(CheckpointError):
        find("auto", LocalStorage(checkpoint.parent), None)
