"""Logits over the vocabulary are never there for all tokens, in training and in evaluation, on every grid."""

from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dist_plm.models.kernels import linear_loss
from tests.ranks.pool import World
from tests.ranks.test_encoders import MODELS
from tests.ranks.test_grids import GRIDS
from tests.ranks.training import build, configure, rank_batches

pytestmark = pytest.mark.ranks


class Rows(TorchDispatchMode):
    """The most rows of matrices as wide as a rank's part of the vocabulary that any operation made; views do not count."""

    def __init__(self, widths: set[int]) -> None:
        super().__init__()
        self.widths, self.most = widths, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and not func.is_view and x.dim() > 1 and x.shape[-1] in self.widths:
                self.most = max(self.most, x.numel() // x.shape[-1])
        return result


def rows_of(world: World, config) -> list[int]:
    """In a step, and in an evaluation."""
    engine, groups = build(world, config)
    batches = rank_batches(config, groups, 0)
    width = -(-211 // (8 * config.parallel.tensor)) * 8
    before, linear_loss.LOSS_CHUNK_BYTES = linear_loss.LOSS_CHUNK_BYTES, 4 * width * 3
    found = []
    try:
        for run in (lambda: engine.train_step(batches, 1e-3), lambda: engine.eval_step(batches)):
            with Rows({width, min(width, 211), 211 - width}) as rows:
                run()
            found.append(rows.most)
    finally:
        linear_loss.LOSS_CHUNK_BYTES = before
    return found


@pytest.mark.parametrize("name", ["one", "tensor2", "tensor2_sequence"])
@pytest.mark.parametrize("model", [{"model__tied_embeddings": False}, MODELS["bert"]], ids=["gpt", "bert"])
def test_three_tokens_at_a_time(ranks, name, model):
    size, changes = GRIDS.get(name, (1, {}))
    for training, evaluation in ranks.run(size, rows_of, configure(size, **model, **changes)):
        assert 0 < training <= 3
        assert 0 < evaluation <= 3


@pytest.mark.parametrize("tied", [True, False])
def test_nor_where_weights_are_put_together_for_a_call(ranks, tied):
    changes = {"engine__name": "deepspeed", "engine__zero_stage": 3, "model__tied_embeddings": tied}
    for training, evaluation in ranks.run(2, rows_of, configure(2, **changes)):
        assert 0 < training <= 3
        assert 0 < evaluation <= 3
