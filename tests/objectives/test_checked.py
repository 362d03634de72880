"""Microbatches that no model can take are refused where they are made, by what is wrong with which array."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from dist_plm.core.errors import ConfigError
from dist_plm.data.samples import Arrays
from dist_plm.objectives.base import LossTerm
from dist_plm.objectives.build import build_objective
from dist_plm.objectives.checked import CheckedObjective, checked
from dist_plm.plan.rehearsal.stand_in_data import RandomText
from dist_plm.spec.objectives import OBJECTIVES
from dist_plm.spec.objectives.causal import CausalConfig
from dist_plm.train.data import form_of
from tests.objectives.text import SPECIAL

LENGTH = 64


def samples_of(name: str, objective: CheckedObjective, count: int) -> Any:
    form = form_of(OBJECTIVES[name](), objective, LENGTH)
    text = RandomText(200, form.window_length, form.source == "pairs", form.with_second, form.frame)
    return text.read(np.arange(count))


@pytest.mark.parametrize("name", list(OBJECTIVES))
@pytest.mark.parametrize("count", [1, 3])
def test_what_all_objectives_make_is_taken(name, count):
    config = OBJECTIVES[name]()
    own = build_objective(config, SPECIAL, seed=1, sequence_length=LENGTH, has_decoder=name == "ul2")
    objective = checked(config, own, LENGTH)
    samples = samples_of(name, objective, count)
    collate = pickle.loads(pickle.dumps(objective.collate))
    for array, other in zip(collate(samples).values(), own.collate(samples).values(), strict=True):
        np.testing.assert_array_equal(array, other)
    assert (objective.losses, objective.source) == (own.losses, own.source)


@dataclass(frozen=True)
class Changed:
    """Makes something else of what causal modelling makes."""

    of: Any
    change: Callable[[Arrays], Any]
    losses: Any

    def collate(self, windows) -> Arrays:
        return self.change(self.of.collate(windows))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda b: {"tokens": b["tokens"], "samples": b["samples"]}, "labels is missing"),
        (lambda b: {"labels": b["labels"], "samples": b["samples"]}, "tokens is missing"),
        (
            lambda b: b | {"segment": b["tokens"]},
            "segment is none of the arrays that there are; did you mean segments?",
        ),
        (lambda b: b | {"labels": b["labels"].tolist()}, "labels is no array of NumPy, but list"),
        (lambda b: b | {"labels": b["labels"].astype(np.int32)}, "labels is of int32, where models read int64"),
        (lambda b: b | {"labels": b["labels"][:, 1:]}, "labels is of shape [2, 63], and tokens of [2, 64]"),
        (lambda b: b | {"positions": b["tokens"].T.copy()}, "positions is of shape [64, 2], and tokens of [2, 64]"),
        (lambda b: b | {"lengths": np.arange(3)}, "lengths is of shape [3], which has no row for each of 2 samples"),
        (lambda b: b | {"samples": np.array(1)}, "samples is of shape [], which has no row for each of 2 samples"),
        (
            lambda b: b | {name: np.pad(b[name], ((0, 0), (0, 1))) for name in ("tokens", "labels")},
            "tokens is of shape [2, 65], where rows have data.sequence_length = 64 tokens",
        ),
    ],
)
def test_what_no_model_can_take_is_refused(change, told):
    objective = build_objective(CausalConfig())
    other = checked(CausalConfig(), Changed(objective, change, objective.losses), LENGTH)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError) as refused:
        other.collate(samples_of("causal", checked(CausalConfig(), objective, LENGTH), 2))
    place = "objective.name = 'causal' (dist_plm/objectives/causal.py)"
    assert refused.value.problems == [
        f"{place} makes microbatches that no model can take: {told}; see objectives/base.py"
    ]


def test_what_a_part_of_the_loss_counts_must_be_there():
    objective = build_objective(CausalConfig())
    counted = replace(
        checked(CausalConfig(), objective, LENGTH),
        of=Changed(objective, lambda batch: batch, {"causal": LossTerm(1.0, "labels", "target_mask")}),  # pyright: ignore[reportArgumentType]
    )
    with pytest.raises(ConfigError, match="target_mask is missing"):
        counted.collate(samples_of("causal", checked(CausalConfig(), objective, LENGTH), 2))
