"""Checkpoints that a run begins with, train.resume=PATH and train.init_from, are looked at before anything starts."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dist_plm.checkpoint.fragments import names_held
from dist_plm.checkpoint.planner import TensorReader
from dist_plm.checkpoint.storage import LocalStorage
from dist_plm.checkpoint.streaming import write_checkpoint
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.cli.app import front, load
from dist_plm.cli.commands.submit import execute as submit
from dist_plm.cluster.check import check_run
from dist_plm.core.errors import EXIT_REFUSED
from dist_plm.models.build import whole_shard_specs
from dist_plm.spec.schema import PretrainConfig
from dist_plm.train.data import open_data
from dist_plm.train.startup.resume import stream_of
from tests.train.running import make_store

OWN = (
    "model=gpt_tiny",
    "model.hidden=32",
    "model.heads=2",
    "model.layers=2",
    "model.max_positions=16",
    "model.vocab_size=97",
    "data.sequence_length=16",
    "train.eval_samples=0",
    "train.eval_every=0",
    "run.dir=runs/own",
)


def save(directory: Path, store: Path, *steps: int, weights_only: bool = False, without: str = "") -> Path:
    """A run whose checkpoints hold the model of OWN, and were made over `store`; they say nothing of one fact of it."""
    config, _ = load(PretrainConfig, "pretrain", [*OWN, f"data.path={store}"])
    config = check_run(config, 1, with_data=True)
    shapes = names_held(whole_shard_specs(config.model), ["weight"])
    samples = open_data(config.data, config.objective, config.train, config.model).samples
    stream = stream_of(config.data, config.objective, config.train, samples["train"])
    stream.pop(without, None)
    train_state = TrainState(
        step=0, samples_seen=0, engine={} if weights_only else {"optimizer_steps": 1}, stream=stream
    )
    storage = LocalStorage(directory / "checkpoints")
    for step in steps:
        write_checkpoint(storage, replace(train_state, step=step), shapes, lambda shard: torch.zeros(shard.size))
    return directory


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, store):
    return save(tmp_path_factory.mktemp("saved"), store, 2, 4)


@pytest.fixture
def check(capsys, store, tmp_path, monkeypatch):
    """Exit code and message of --check, which neither reads values nor makes anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TensorReader, "read_shards", None)

    def run(*arguments: str) -> tuple[int, str]:
        before = sorted(tmp_path.rglob("*"))
        words = ["--check", *OWN, f"data.path={store}", *arguments]
        code = front(words, PretrainConfig, "pretrain", lambda config, origins: None, "")
        assert sorted(tmp_path.rglob("*")) == before
        said = capsys.readouterr()
        return code, said.out if code == 0 else said.err

    return run


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("train.resume", ""),
        ("train.resume", "/checkpoints/latest"),
        ("train.init_from", "/checkpoints"),
        ("train.init_from", "/checkpoints/step_00000002"),
    ],
)
def test_a_checkpoint_that_fits_passes(saved, check, key, where):
    code, said = check(f"{key}={saved}{where}")
    assert code == 0, said


def without(name: str):
    return lambda step: (step / name).unlink()


def truncated(step: Path) -> None:
    (step / "__0_0.distcp").write_bytes((step / "__0_0.distcp").read_bytes()[:-1])


WRONG = {
    "missing": (shutil.rmtree, "there is nothing at {step}"),
    "no checkpoint": (lambda step: [file.unlink() for file in step.iterdir()], "{step} is not a complete checkpoint"),
    "incomplete": (without("checkpoint.json"), "{step} is not a complete checkpoint: it has no checkpoint.json"),
    "no tensors": (without("__0_0.distcp"), "{step} is damaged: __0_0.distcp is missing"),
    "truncated": (truncated, "{step} is damaged: __0_0.distcp holds"),
}


@pytest.mark.parametrize(
    ("kind", "key", "remedy"),
    [
        *((kind, "train.resume", "train.resume=PATH") for kind in WRONG),
        *((kind, "train.init_from", "name another checkpoint or run") for kind in ("missing", "truncated")),
    ],
)
def test_what_is_no_checkpoint_is_refused(saved, check, tmp_path, key, remedy, kind):
    step = shutil.copytree(saved, tmp_path / "copy") / "checkpoints" / "step_00000004"
    spoil, sentence = WRONG[kind]
    spoil(step)
    code, said = check(f"{key}={step}")
    assert code == EXIT_REFUSED
    for part in (sentence.format(step=step), key, remedy):
        assert part in said


@pytest.mark.parametrize("key", ["train.resume", "train.init_from"])
@pytest.mark.parametrize(
    ("file", "named", "remedy"),
    [
        ("config.json", "a directory of Hugging Face", "model.init_from={place}"),
        ("metadata.json", "a torch_dist checkpoint of Megatron", "launch/convert.py from={place} to=DIR"),
        ("mp_rank_00_model_states.pt", "a checkpoint of DeepSpeed", "launch/convert.py from={place} to=DIR"),
    ],
)
def test_what_others_wrote_is_told_with_its_way_in(check, tmp_path, key, file, named, remedy):
    (tmp_path / file).write_text("{}")
    code, said = check(f"{key}={tmp_path}")
    assert code == EXIT_REFUSED
    assert f"{tmp_path} is {named}; " in said
    assert remedy.format(place=tmp_path) in said
    assert "train.resume=none" not in said


def test_a_run_in_place_of_a_directory_of_hugging_face_is_told_with_its_way_in(saved, check):
    code, said = check(f"model.init_from={saved}")
    assert code == EXIT_REFUSED
    assert f"{saved} is a checkpoint or run of this program; begin with its weights by train.init_from={saved}" in said


def test_a_run_is_refused_only_where_none_of_its_checkpoints_is_whole(saved, check, tmp_path):
    """As loading it falls back to the one before."""
    checkpoints = shutil.copytree(saved, tmp_path / "copy") / "checkpoints"
    for step, code in (("step_00000004", 0), ("step_00000002", EXIT_REFUSED)):
        truncated(checkpoints / step)
        assert check(f"train.resume={tmp_path}/copy")[0] == code
        assert check(f"train.init_from={tmp_path}/copy")[0] == code


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("train.resume", ["model.layers=3"]),
        ("train.resume", ["model.vocab_size=98"]),
        ("train.resume", ["model=bert_tiny", "objective=mlm"]),
        ("train.init_from", ["model.hidden=64"]),
        ("train.init_from", ["model=bert_tiny", "objective=mlm", "train.init_optimizer=none"]),
    ],
)
def test_another_model_is_refused(saved, check, key, changes):
    code, said = check(f"{key}={saved}", "data.path=elsewhere/x", "data.allow_change=true", *changes)
    assert code == EXIT_REFUSED
    assert "step_00000004 is of another model" in said
    assert key in said


@pytest.mark.parametrize("change", ["train.seed=1", "data.split=[0.5,0.4,0.1]"])
def test_another_stream_of_samples_is_refused_where_a_run_is_resumed(saved, check, change):
    code, said = check(f"train.resume={saved}", change)
    assert code == EXIT_REFUSED
    assert f"{saved}/checkpoints/step_00000004 was made over another stream of samples" in said
    assert "data.allow_change=true" in said
    assert check(f"train.resume={saved}", change, "data.allow_change=true")[0] == 0
    assert check(f"train.init_from={saved}", change)[0] == 0


def test_a_checkpoint_of_older_masks_is_refused_where_anything_is_dropped(saved, store, check, tmp_path):
    older = save(tmp_path / "older", store, 4, without="dropout.stream")
    resume, drop = f"train.resume={older}", "model.hidden_dropout=0.1"
    assert check(resume)[0] == 0
    assert check(f"train.resume={saved}", drop)[0] == 0
    code, said = check(resume, drop)
    assert code == EXIT_REFUSED
    assert "dropout drew its masks by another rule (dropout.stream: 1 -> 2)" in said
    assert "data.allow_change=true" in said
    assert check(resume, drop, "data.allow_change=true")[0] == 0
    assert check(f"train.init_from={older}", drop)[0] == 0


@pytest.mark.parametrize("change", ["train.global_batch=32", "data.sequence_length=8", "objective.document_mask=true"])
def test_without_data_the_rest_of_the_stream_is_compared(saved, check, change):
    code, said = check(f"train.resume={saved}", "data.path=elsewhere/x", change)
    assert code == EXIT_REFUSED
    assert change.partition("=")[0] in said


def test_grids_precisions_and_numbers_of_steps_may_differ(saved, check):
    changes = ["parallel.tensor=2", "precision=bf16", "train.steps=50", "engine=deepspeed", "--world-size", "4"]
    # Nor need data be here, even where they alone tell the vocabulary.
    changes += ["data.path=elsewhere/x", "~model.vocab_size"]
    code, said = check(f"train.resume={saved}", *changes)
    assert code == 0, said


def test_of_weights_alone_the_model_counts(check, store, tmp_path):
    weights = save(tmp_path / "weights", store, 0, weights_only=True)
    assert check(f"train.resume={weights}", "train.seed=1")[0] == 0
    code, said = check(f"train.resume={weights}", "model.layers=3")
    assert code == EXIT_REFUSED
    assert "is of another model than model.*: layers.2" in said


def test_a_run_with_checkpoints_of_its_own_needs_none(saved, check, tmp_path):
    assert check("train.init_from=nowhere/at/all")[0] == EXIT_REFUSED
    shutil.copytree(saved, tmp_path / "runs" / "own")
    assert check("train.init_from=nowhere/at/all")[0] == 0
    assert check("train.init_from=nowhere/at/all", "train.resume=none")[0] == EXIT_REFUSED


@pytest.mark.parametrize("key", ["train.resume", "train.init_from"])
def test_nothing_is_submitted_that_cannot_begin(saved, store, capsys, tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    words = ["submit.dry_run=true", *OWN, f"data.path={store}"]
    assert submit([*words, f"{key}={tmp_path}/nowhere"]) == EXIT_REFUSED
    said = capsys.readouterr()
    assert f"there is nothing at {tmp_path}/nowhere" in said.err
    assert said.out == ""
    if key == "train.resume":
        assert submit([*words, f"{key}={saved}"]) == 0
        assert submit([*words, f"{key}={tmp_path}/nowhere", "submit.check_data=false"]) == 0
    assert list(tmp_path.iterdir()) == []
