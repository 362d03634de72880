"""A second phase begins with the weights and moments of the first, to the bit, and is else a run of its own."""

from dataclasses import replace

import pytest
import torch

from dist_plm.checkpoint.open_checkpoint import look_at
from dist_plm.checkpoint.planner import TensorReader
from dist_plm.core.errors import ConfigError
from dist_plm.spec.rules.finalize import finalize
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.train.running import make_store, run_case, settings, signalled_case
from tests.train.test_resume import records

pytestmark = pytest.mark.ranks

LAMB = {"optim__name": "lamb", "optim__lr": 5e-3, "model__max_positions": 16}
FIRST = LAMB | {"data__sequence_length": 8, "train__steps": 6, "train__global_batch": 16}
SECOND = LAMB | {"train__steps": 5, "train__seed": 7, "schedule__name": "polynomial", "schedule__warmup_steps": 3}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "tokens")


@pytest.fixture(scope="module")
def first(ranks, store, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("first")
    assert ranks.run(2, run_case, settings(store, run_dir, **FIRST), free_port()) == [0, 0]
    return run_dir


def tensors_of(run_dir) -> tuple[dict[str, torch.Tensor], dict]:
    found, problems = look_at(str(run_dir))
    assert problems == []
    reader: TensorReader = found.tensors
    return {name: reader.read_whole(name) for name in reader.tensors}, dict(found.train_state.engine)


@pytest.mark.parametrize("kept", ["keep", "restart", "none"])
def test_it_begins_where_the_first_ended(ranks, store, tmp_path, first, kept):
    config = settings(store, tmp_path, **SECOND, train__init_from=str(first), train__init_optimizer=kept)
    # Stopped in the evaluation before the first step, it saves what it began with.
    assert [code for code, _ in ranks.run(2, signalled_case, config, free_port(), "evaluation", 1)] == [75, 75]
    assert (tmp_path / "checkpoints" / "latest").read_text().strip() == "step_00000000"
    (expected, scalars), (actual, mine) = tensors_of(first), tensors_of(tmp_path)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        taken = tensor if kept != "none" or name.startswith("model.") else torch.zeros_like(tensor)
        assert torch.equal(actual[name], taken), name
    assert scalars["optimizer_steps"] == 6
    assert mine["optimizer_steps"] == (6 if kept == "keep" else 0)


@pytest.mark.parametrize("changes", [{"model__heads": 4}, {"model__heads": 2, "model__hidden_dropout": 0.1}])
def test_a_model_that_computes_something_else_with_the_weights_is_told_of(ranks, store, tmp_path, first, changes):
    config = settings(store, tmp_path, **SECOND, train__init_from=str(first), **changes)
    config = replace(config, train=replace(config.train, stop_at=1))
    assert ranks.run(1, run_case, config, free_port()) == [0]
    log = "".join(path.read_text() for path in (tmp_path / "log").iterdir())
    told = "WARNING" in log and "not as in the run that train.init_from names: model.heads = 4 (there 2)" in log
    assert told == (changes["model__heads"] == 4)


def test_it_has_its_own_schedule_and_stream_and_resumes(ranks, store, tmp_path, first):
    config = settings(store, tmp_path / "whole", **SECOND, train__init_from=str(first))
    assert ranks.run(2, run_case, config, free_port()) == [0, 0]
    whole = records(tmp_path / "whole")
    assert [record["step"] for record in whole] == [1, 2, 3, 4, 5]
    assert [record["samples_seen"] for record in whole] == [8, 16, 24, 32, 40]
    assert whole[0]["lr"] == pytest.approx(5e-3 / 3)
    config = settings(store, tmp_path / "broken", **SECOND, train__init_from=str(first))
    assert [code for code, _ in ranks.run(2, signalled_case, config, free_port(), "step", 3)] == [75, 75]
    assert ranks.run(2, run_case, config, free_port()) == [0, 0]
    assert records(tmp_path / "broken") == whole


def test_what_does_not_fit_is_refused_by_name(ranks, store, tmp_path, first):
    for changes, sentence in [
        ({"model__max_positions": 32}, r"train\.init_from = .*embedding\.position\.weight.*model\.max_positions too"),
        ({"optim__name": "sgd", "optim__momentum": 0.9}, r"train\.init_from = .*train\.init_optimizer=none"),
    ]:
        config = settings(store, tmp_path, **(SECOND | changes), train__init_from=str(first))
        with pytest.raises(RanksError, match=sentence):
            ranks.run(1, run_case, config, free_port())
    config = settings(store, tmp_path, **SECOND, train__init_from=f"{first}_nowhere")
    with pytest.raises(RanksError, match=r"train\.init_from = .*nowhere.*name another checkpoint or run"):
        ranks.run(1, run_case, config, free_port())


def test_its_own_directory_and_moments_of_nothing_are_refused(store, tmp_path):
    config = settings(store, tmp_path, **SECOND, train__init_from=f"{tmp_path}/checkpoints/step_00000002")
    with pytest.raises(ConfigError, match="this run's own directory"):
        finalize(config, world_size=1, vocab_size=None)
    config = settings(store, tmp_path, **SECOND, train__init_optimizer="restart")
    with pytest.raises(ConfigError, match=r"has no effect with train\.init_from = null"):
        finalize(config, world_size=1, vocab_size=None)
