from typing import Any

import pytest

from dist_plm.objectives.build import build_objective
from dist_plm.spec.objectives import OBJECTIVES
from dist_plm.spec.objectives.base import measures
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
