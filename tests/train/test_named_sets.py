"""What pretraining measures of named sets is what launch/evaluate.py measures of the checkpoint, on any grid and engine."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from dist_plm.core.errors import ConfigError
from dist_plm.distributed.world import leave
from dist_plm.spec.rules.finalize import finalize
from dist_plm.tasks.evaluate.evaluate import evaluate, measured
from dist_plm.tasks.evaluate.sums import COUNTS
from tests.ranks.pool import RanksError
from tests.ranks.ports import free_port
from tests.tasks.inference.models import evaluate_config, opened
from tests.train.finetuning import records
from tests.train.named_sets import BERT, case, make_corpus, make_store, sets
from tests.train.running import run_case

ELECTRA = {"model__family": "electra", "model__segments": 2, "objective__name": "rtd", "model__layers": 2} | {
    "model__heads": 4,
    "model__generator_heads": 2,
}
GRIDS: dict[str, dict[str, Any]] = {
    "data": {},
    "slices": {"parallel__tensor": 2, "parallel__sequence_parallel": True},
    "context": {"parallel__context": 2},
    "chunks": {"parallel__pipeline": 2, "parallel__virtual_pipeline": 2},
    "zero 3": {"engine__zero_stage": 3, "engine__name": "deepspeed"},
    "deepspeed chunks": {
        "parallel__pipeline": 2,
        "parallel__virtual_pipeline": 2,
        "engine__zero_stage": 1,
        "engine__name": "deepspeed",
    },
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def measure(world, config):
    return measured(config, opened(world, config))["results"]


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("model", "grid"),
    [
        ({}, "zero 3"),
        ({}, "context"),
        pytest.param(BERT, "chunks", marks=pytest.mark.slow),
        pytest.param({}, "data", marks=pytest.mark.slow),
        pytest.param({}, "slices", marks=pytest.mark.slow),
        pytest.param({}, "chunks", marks=pytest.mark.slow),
        pytest.param({}, "deepspeed chunks", marks=pytest.mark.slow),
        pytest.param(BERT, "slices", marks=pytest.mark.slow),
        pytest.param(BERT, "zero 3", marks=pytest.mark.slow),
        pytest.param(BERT, "context", marks=pytest.mark.slow),
        pytest.param(ELECTRA, "slices", marks=pytest.mark.slow),
    ],
)
def test_named_sets_are_measured_as_evaluate_does(ranks, corpus, model, grid, tmp_path: Path) -> None:
    asked = sets(corpus)
    config = case(corpus, tmp_path, **model, **GRIDS[grid], evaluate__tasks=asked)
    assert ranks.run(2, run_case, config, free_port()) == [0, 0]
    for record in records(tmp_path)[1::2]:
        checkpoint = tmp_path / "checkpoints" / f"step_{record['step']:08d}"
        for named in asked:
            alone = {name: value for name, value in named.items() if name != "name"}
            (expected,) = ranks.run(1, measure, evaluate_config(checkpoint, **alone))
            prefix = f"eval/{named['name']}/"
            found = {key.removeprefix(prefix): value for key, value in record.items() if key.startswith(prefix)}
            wanted = {name: value for name, value in expected.items() if name not in COUNTS}
            assert set(found) == set(wanted)
            assert found == pytest.approx(wanted, rel=2e-5, abs=1e-6), (named["name"], record["step"])


def evaluated(world, config, port: int) -> int:
    """The command on ranks of their own."""
    dist.barrier()
    leave()
    place = {"RANK": world.rank, "WORLD_SIZE": world.size, "LOCAL_RANK": world.rank, "LOCAL_WORLD_SIZE": world.size}
    environ = {name: str(value) for name, value in place.items()}
    return evaluate(config, {**environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})


@pytest.mark.slow
@pytest.mark.ranks
def test_trackers_get_what_is_measured_later_under_the_name_of_a_set(ranks, corpus, tmp_path: Path) -> None:
    """What evaluate.tasks had put into the row of the step, and launch/evaluate.py puts there once the run has ended."""
    named = sets(corpus)[0]
    alone = {name: value for name, value in named.items() if name != "name"}
    run = case(corpus, tmp_path, evaluate__tasks=[named], track__to=["csv"], checkpoint__background=False)
    assert ranks.run(2, run_case, run, free_port()) == [0, 0]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        before = list(csv.DictReader(file))
    again = evaluate_config(
        tmp_path / "checkpoints" / "step_00000002", **alone, trackers=True, name="later", parallel={"tensor": 2}
    )
    assert ranks.run(2, evaluated, again, free_port()) == [0, 0]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        after = list(csv.DictReader(file))
    assert [row["step"] for row in after] == ["1", "2", "3", "4"]
    measures = [name for name in after[0] if name.startswith("eval/later/")]
    assert measures
    for row, old in zip(after, before, strict=True):
        assert {name: value for name, value in row.items() if name not in measures} == old
        for name in measures:
            in_training = row[name.replace("later", "texts")]
            assert row["step"] == "2" or row[name] == ""
            assert row["step"] != "2" or float(row[name]) == pytest.approx(float(in_training), rel=2e-5)


@pytest.mark.ranks
def test_a_named_set_decides_when_pretraining_ends(ranks, corpus, tmp_path: Path) -> None:
    stopping = {"patience": 1, "metric": "probe/accuracy", "threshold": 2.0}  # no accuracy is better by 2
    changes = {"train__steps": 12, "checkpoint__every": 4, "train__early_stopping": stopping}
    config = case(corpus, tmp_path, **changes, evaluate__every=4, evaluate__tasks=sets(corpus)[-1:])
    assert ranks.run(1, run_case, config, free_port()) == [0]
    found = records(tmp_path)
    assert found[-1]["step"] == 8, "the evaluation at 4 is the best, the one at 8 no better"
    assert [r["step"] for r in found if "eval/probe/accuracy" in r] == [4, 8]
    assert [r["step"] for r in found if "eval/loss" in r] == [2, 4, 6, 8]


@pytest.mark.ranks
def test_a_run_in_pieces_that_a_named_set_ends_ends_as_a_whole_one(ranks, corpus, tmp_path: Path) -> None:
    """Where train.stop_at ends a piece the set is measured as well, which does not count."""
    stopping = {"patience": 2, "metric": "probe/accuracy", "threshold": 2.0}
    changes = {"train__steps": 16, "checkpoint__every": 4, "train__early_stopping": stopping}
    whole = case(corpus, tmp_path, **changes, evaluate__every=4, evaluate__tasks=sets(corpus)[-1:])
    for stop in (2, 6, None):
        config = replace(whole, train=replace(whole.train, stop_at=stop))
        assert ranks.run(1, run_case, config, free_port()) == [0]
    assert records(tmp_path)[-1]["step"] == 12, "4 is the best, 8 and 12 are no better"
    assert [r["step"] for r in records(tmp_path) if "eval/probe/accuracy" in r] == [2, 4, 6, 8, 12]


@pytest.mark.ranks
def test_the_objective_on_held_out_samples_is_what_training_evaluates(ranks, corpus, tmp_path: Path) -> None:
    """Rows are packed and masks drawn as in the run; a store whose numbers mean other tokens is refused."""
    own = {"on": "objective", "data": {"path": str(corpus / "store"), "split": "validation"}}
    as_run = {"data__packing": "best_fit", "train__seed": 7, "train__eval_samples": 10_000}
    config = case(corpus, tmp_path, **BERT, **as_run, evaluate__tasks=[{"name": "own", **own}])
    assert ranks.run(1, run_case, config, free_port()) == [0]
    last = records(tmp_path)[-1]
    assert last["eval/own/loss"] == last["eval/loss"]
    (alone,) = ranks.run(1, measure, evaluate_config(tmp_path, **own))
    assert alone["loss"] == pytest.approx(last["eval/loss"], rel=1e-6)
    (other,) = ranks.run(1, measure, evaluate_config(tmp_path, **own, seed=8))
    assert abs(other["loss"] - last["eval/loss"]) > 1e-4
    make_store(corpus, corpus / "turned", words_turned=True)
    with pytest.raises(RanksError, match="was prepared with another tokenizer than the model's"):
        ranks.run(1, measure, evaluate_config(tmp_path, **{**own, "data": {"path": str(corpus / "turned")}}))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"evaluate__tasks": [{"name": "loss"}]}, "evaluate.tasks[0].name = 'loss' is taken"),
        ({"evaluate__tasks": [{"name": "a/b"}]}, "evaluate.tasks[0].name = 'a/b' is not allowed"),
        ({"evaluate__tasks": [{"name": "a"}]}, "evaluate.tasks[0]: there is nothing to read: give data.path=STORE"),
        (
            {"evaluate__tasks": [{"name": "a", "on": "probe", "data": {"rows": "x.csv"}}]},
            "evaluate.tasks[0]: data.train_rows is missing",
        ),
        ({"evaluate__every": 2}, "evaluate.every = 2 has no effect without evaluate.tasks"),
        (
            {"evaluate__tasks": [{"name": "a", "data": {"path": "b"}}], "evaluate__every": 3},
            "evaluate.every = 3 is no multiple of train.eval_every = 2",
        ),
        (
            {"evaluate__tasks": [{"name": "a", "data": {"path": "b"}}], "train__eval_samples": 0},
            "train.eval_samples = 0 turns off",
        ),
        (
            {"train__early_stopping": {"patience": 1, "metric": "acuracy"}},
            "train.early_stopping.metric = 'acuracy' is no measure of this run; did you mean accuracy?",
        ),
        (
            {"train__early_stopping": {"patience": 1}, "train__eval_every": 0},
            "train.early_stopping has nothing to go by with train.eval_every = 0",
        ),
    ],
)
def test_sets_that_cannot_be_measured_are_refused(tmp_path: Path, changes: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as refused:
        finalize(case(tmp_path, tmp_path / "run", **changes), world_size=1, vocab_size=99)
    assert part in str(refused.value)
