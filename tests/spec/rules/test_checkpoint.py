from typing import Any

import pytest

from dist_plm.objectives.build import build_objective
from dist_plm.spec.objectives import OBJECTIVES
from dist_plm.spec.objectives.base import measures
from dist_plm.spec.rules.checkpoint import shared_directories
from dist_plm.spec.schema import RunConfig
from dist_plm.spec.schema_run import CheckpointConfig
from tests.objectives.text import SPECIAL
from tests.spec.broken import problems

EVERY: dict[str, Any] = {"checkpoint__every": 2, "train__eval_every": 2}


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"checkpoint__best_is": "highest"}, "checkpoint.best_is = 'highest' has no effect"),
        ({**EVERY, "checkpoint__keep_best": "loss/mlm"}, "is no measure of objective.name = 'causal'"),
        ({**EVERY, "checkpoint__keep_best": ""}, "checkpoint.keep_best = '' is no measure"),
        ({"checkpoint__keep_best": "loss", "train__eval_samples": 0}, "nothing to go by with train.eval_samples = 0"),
        ({"checkpoint__keep_best": "loss"}, "one checkpoint to choose from, the last, with train.eval_every = 0"),
        ({"checkpoint__keep_best": "loss", "checkpoint__every": 2}, "train.eval_every = 0 and checkpoint.every = 2"),
        ({"checkpoint__keep_best": "loss", "train__eval_every": 2}, "and checkpoint.every = 0: give both"),
        (
            {"checkpoint__keep_best": "loss", "train__eval_every": 5, "checkpoint__every": 3},
            "both for the first time at step 15, after the end",
        ),
        (
            {"checkpoint__keep_best": "loss", "train__eval_every": 2, "checkpoint__every": 3, "train__stop_at": 5},
            "both for the first time at step 6, after the end",
        ),
    ],
)
def test_one_sentence_with_the_reason(changes: dict[str, Any], part: str) -> None:
    (problem,) = problems(**changes)
    assert part in problem


@pytest.mark.parametrize("best", measures(OBJECTIVES["causal"].loss_terms))
def test_measures_that_there_are_pass(best: str) -> None:
    assert problems(checkpoint__keep_best=best, **EVERY) == []
    assert problems(checkpoint__keep_best=best, checkpoint__every=4, train__eval_every=2) == []
    assert problems(checkpoint__keep_best=best, checkpoint__every=4, train__eval_every=4, train__stop_at=2) == []


def test_encoders_have_measures_of_each_part() -> None:
    assert measures(OBJECTIVES["rtd"].loss_terms)[3:] == (
        "perplexity/generator",
        "loss/generator",
        "accuracy/generator",
        "loss/discriminator",
        "accuracy/discriminator",
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_terms_are_those_of_the_objective(name: str) -> None:
    objective = build_objective(OBJECTIVES[name](), SPECIAL, seed=1, sequence_length=64)  # pyright: ignore[reportArgumentType]
    assert tuple(objective.losses) == OBJECTIVES[name].loss_terms


def test_places_of_a_sweep_are_the_same_however_they_are_written(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    same = [
        [{"dir": "a"}, {"dir": "./a"}],
        [{"dir": str(tmp_path / "a")}, {"dir": str(tmp_path / "link")}],
        [{"root": "x", "name": "y"}, {"dir": "x/y"}],
    ]
    for first, second in same:
        runs = [(RunConfig(**{"name": "run", **run}), CheckpointConfig()) for run in (first, second)]
        assert [problem.partition(" = ")[0] for problem in shared_directories(runs)] == ["run.dir"]
    for first, second in [("s3://b/c", "s3://b/c/"), ("c", "d/../c"), ("runs/a/checkpoints", None)]:
        runs = [(RunConfig(name="b"), CheckpointConfig(dir=first)), (RunConfig(name="a"), CheckpointConfig(dir=second))]
        assert [problem.partition(" = ")[0] for problem in shared_directories(runs)] == ["checkpoint.dir"]
    apart = [(RunConfig(name=name), CheckpointConfig(dir=f"{name}/c")) for name in "ab"]
    assert list(shared_directories(apart)) == []
