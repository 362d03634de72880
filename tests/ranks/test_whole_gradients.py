"""Gradients are measured and clipped by the buckets that they lie in: the norm is the same, of fewer sums."""

import math

import pytest
import torch

from dist_plm.distributed.collectives import all_reduce
from dist_plm.engines.gradient_norm import GradientNorm
from dist_plm.engines.megatron.optimizer import gradients_for_norm
from tests.ranks.pool import World
from tests.ranks.training import build_on, configure, groups_of, rank_batches

pytestmark = pytest.mark.ranks


def measured(world: World, config) -> tuple[int, float, float]:
    """How many gradients the third step measures, its norm, and that of the optimizer's own gradients."""
    groups = groups_of(world, config)
    engine = build_on(groups, config)
    counts: list[int] = []
    squares: list[torch.Tensor] = []
    measure = GradientNorm.measure

    def noted(self: GradientNorm, gradients) -> float:
        counts.append(len(gradients))
        own = [one.double().square().sum() for one in gradients_for_norm(engine._optimizer)]
        squares.append(torch.stack(own).sum().reshape(1) if own else torch.zeros(1, dtype=torch.float64))
        return measure(self, gradients)

    GradientNorm.measure = noted
    try:
        norms = [engine.train_step(rank_batches(config, groups, step), 1e-3).grad_norm for step in range(3)]
    finally:
        GradientNorm.measure = measure
    all_reduce(squares[-1], groups.world if config.engine.zero_stage == 1 else groups.model)
    return counts[-1], norms[-1], math.sqrt(float(squares[-1]))


@pytest.mark.parametrize(
    "changes",
    [
        {"engine__zero_stage": 0},
        {"engine__zero_stage": 1},
        {"engine__zero_stage": 1, "precision__name": "bf16"},
        {"engine__zero_stage": 1, "engine__overlap_grad_reduce": True},
        {"engine__zero_stage": 1, "parallel__context": 2},
        {"engine__zero_stage": 1, "train__freeze": ("layers.0-1",)},
    ],
    ids=["replicated", "sharded", "masters", "overlapped", "context", "frozen"],
)
def test_data_ranks_measure_buckets(ranks, tmp_path, changes):
    for count, norm, expected in ranks.run(2, measured, configure(2, run__root=str(tmp_path), **changes)):
        assert count == 1
        assert norm == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        # What is whole on both the first counts alone: biases and norms lie behind each product of rows of the 4 layers.
        ({"parallel__tensor": 2}, [1, 9]),
        ({"parallel__tensor": 2, "parallel__sequence_parallel": True, "precision__name": "bf16"}, [1, 9]),
        ({"parallel__pipeline": 2}, [1, 1]),
        ({"parallel__pipeline": 2, "model__tied_embeddings": False}, [1, 1]),
        ({"parallel__tensor": 2, "engine__zero_stage": 1}, [1, 5, 1, 5]),
    ],
    ids=["tensor", "sequence", "pipeline", "untied", "sharded"],
)
def test_ranks_that_share_a_model_measure_what_lies_together(ranks, tmp_path, changes, counts):
    config = configure(len(counts), run__root=str(tmp_path), **{"engine__zero_stage": 0, **changes})
    results = ranks.run(len(counts), measured, config)
    for _, norm, expected in results:
        assert norm == pytest.approx(expected, rel=1e-6)
    assert [count for count, _, _ in results] == counts
