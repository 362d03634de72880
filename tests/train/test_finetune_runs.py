"""Fine-tuning goes on from a run of pretraining: its model, its tokenizer and its weights, under a head that begins anew."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_plm.checkpoint.open_checkpoint import look_at
from dist_plm.cli.app import load
from dist_plm.core.errors import CheckpointError, ConfigError
from dist_plm.distributed.launch_env import from_environment
from dist_plm.spec.schema_finetune import FinetuneConfig
from dist_plm.train.data import open_run
from dist_plm.train.opening.open_here import open_here
from tests.data.labelled.roberta import write_byte_level
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.train.finetuning import SETTINGS, make_rows, records, settings
from tests.train.running import run_case

pytestmark = pytest.mark.ranks


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def first(ranks, rows, tmp_path_factory) -> Path:
    """A run that learned to classify, with labels of its own."""
    run_dir = tmp_path_factory.mktemp("first")
    assert ranks.run(1, run_case, settings(rows, run_dir, train__epochs=1), free_port()) == [0]
    return run_dir


def following(rows: Path, run_dir: Path, first: Path, **changes: Any) -> FinetuneConfig:
    return settings(rows, run_dir, train__init_from=str(first), **changes)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    found, problems = look_at(str(run_dir))
    assert problems == []
    return {
        name.removeprefix("model."): found.tensors.read_whole(name)
        for name in found.tensors.tensors
        if name.startswith("model.")
    }


@pytest.mark.parametrize(("task", "grid"), [("classify", {}), ("tag", {"parallel__pipeline": 2})])
def test_weights_are_those_of_the_run_and_another_head_is_new(ranks, rows, tmp_path, first, task, grid) -> None:
    """A step so small that nothing moves."""
    still = {"optim__lr": 1e-12, "train__epochs": None, "train__steps": 1}
    config = following(rows, tmp_path, first, task__name=task, **still, **grid)
    assert ranks.run(2, run_case, config, free_port()) == [0, 0]
    ours, theirs = weights(tmp_path), weights(first)
    assert any(name.startswith("head.") for name in ours)
    for name, tensor in ours.items():
        same = name in theirs and tensor.shape == theirs[name].shape and torch.allclose(tensor, theirs[name], atol=1e-9)
        assert same != (name.startswith("head.") and task == "tag"), name


def test_model_and_tokenizer_are_those_of_the_run(rows, first, tmp_path) -> None:
    data = [f"data.train={rows}/train.jsonl", "data.sequence_length=16"]
    config, origins = load(FinetuneConfig, "finetune", [f"train.init_from={first}", f"run.dir={tmp_path}/run", *data])
    assert (config.model.family, config.model.hidden, config.model.init_from) == ("bert", 32, None)
    assert origins["model.hidden"].source == str(first / "checkpoints" / "step_00000006")
    complete, _ = open_run(config, 1)
    assert complete.data.tokenizer == str(rows / "vocabulary")
    assert (complete.train.eval_every, complete.train.eval_samples) == (0, 0), "without rows to evaluate"


def test_what_does_not_fit_is_refused(rows, first, tmp_path) -> None:
    other = write_byte_level(tmp_path / "other")
    for changes, part in (
        ({"model": {**SETTINGS["model"], "hidden": 64}}, "is of another model than model.*"),
        ({"data__tokenizer": str(other)}, "were trained on another vocabulary than that of"),
    ):
        config = following(rows, tmp_path / "run", first, **changes)
        with pytest.raises(CheckpointError) as refused:
            open_here(config, from_environment({}))
        assert part in str(refused.value)
    with pytest.raises(ConfigError, match=r"has no moments for the head of task.name = 'classify'"):
        open_here(following(rows, tmp_path / "run", first, train__init_optimizer="keep"), from_environment({}))


def test_more_epochs_of_a_run_that_ended_learn_all_their_samples(ranks, rows, tmp_path) -> None:
    """An epoch of 61 rows ends with a step of one, and steps of 12 are counted anew from there; steps of 6 as well."""
    for epochs, batch, last, seen in (
        (1, 12, 6, 61),
        (2, 12, 12, 122),
        (3, 6, 23, 183),
        (3, 6, 23, 183),
        (2, 6, 23, 183),
    ):
        config = settings(rows, tmp_path, train__epochs=epochs, train__global_batch=batch, data__allow_change=True)
        assert ranks.run(1, run_case, config, free_port()) == [0]
        assert (records(tmp_path)[-1]["step"], records(tmp_path)[-1]["samples_seen"]) == (last, seen)
    log = "".join(path.read_text() for path in (tmp_path / "log").iterdir())
    assert log.count("changed since the checkpoint: train.epochs") == 3  # the fourth start changes nothing
    assert "changed since the checkpoint: train.steps" not in log
    past = replace(config, train=replace(config.train, epochs=4.0, stop_at=99))
    with pytest.raises(RanksError, match=r"stop_at = 99 lies past the end, train.steps = 34: .* raise train.epochs"):
        ranks.run(1, run_case, past, free_port())
