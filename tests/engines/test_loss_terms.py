"""Which microbatch was the worst: the same on every grid, where several are as bad but for rounding."""

import math

import pytest
import torch

from dist_plm.distributed.groups import alone
from dist_plm.engines.loss_terms import LossTerms
from dist_plm.objectives.base import LossTerm


def result_of(losses, data_ranks=1):
    """Of microbatches with one prediction each; those of further data ranks are told as the first rank's numbers are."""
    told = []
    for rank in range(data_ranks):
        terms = LossTerms({"of_tokens": LossTerm(1.0, "labels")}, alone(), torch.device("cpu"))
        own = losses[rank * len(losses) // data_ranks : (rank + 1) * len(losses) // data_ranks]
        counts = terms.count([{"labels": torch.ones(1, 1, dtype=torch.int64)} for _ in own])
        numbers = terms.add_up([torch.tensor([[loss, 0.0]], dtype=torch.float64) for loss in own], counts).tolist()
        told += numbers if rank == 0 else numbers[3:]
    return terms.result(told, grad_norm=1.0, loss_scale=None)


@pytest.mark.parametrize("data_ranks", [1, 2, 4])
@pytest.mark.parametrize(
    ("losses", "worst"),
    [
        ([1.0, 3.0, 2.0, 2.5], (1, 3.0)),
        ([1.0, 3.0, 3.0 * (1 + 1e-7), 1.0], (1, 3.0)),
        ([1.0, 3.0 * (1 + 1e-7), 1.0, 3.0], (1, 3.0)),
        ([1.0, 3.0, 1.0, 3.0 * (1 + 1e-4)], (3, 3.0003)),
        ([9.0, 1.0, math.inf, math.inf], (2, math.inf)),
        ([9.0, 1.0, math.nan, 1.0], (2, math.inf)),
        ([0.0, 0.0, 0.0, 0.0], (0, 0.0)),
        ([-1.0, -2.0, -1.0 + 1e-7, -3.0], (0, -1.0)),
    ],
)
def test_the_first_of_those_that_are_worst_is_told(losses, worst, data_ranks):
    place, loss = result_of(losses, data_ranks).worst
    assert place == worst[0]
    assert loss == pytest.approx(worst[1], rel=1e-6)
