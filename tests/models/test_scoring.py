"""In training the loss comes with the product over the vocabulary, in evaluation from the logits: they are the same."""

import numpy as np
import pytest
import torch

from dist_plm.distributed.groups import build_groups
from tests.parts import model_of
from tests.ranks.pool import World
from tests.ranks.test_encoders import MODELS
from tests.ranks.times import LONG
from tests.ranks.training import batch_of, configure, grid_of

FAMILIES = {"gpt": {}, "untied": {"model__tied_embeddings": False}} | {k: MODELS[k] for k in ("roberta", "t5")}


def both(world: World, changes: dict) -> list[list[torch.Tensor]]:
    config = configure(1, **changes)
    groups = build_groups(grid_of(config), world.device, timeout=LONG)
    (chunk,), _ = model_of(config, groups, torch.device("cpu"))
    batch, found = batch_of(config, np.arange(4)), []
    for training in (True, False):
        chunk.train(training)
        chunk.zero_grad(set_to_none=True)
        loss = torch.stack([term.loss for term in chunk(batch).values()]).sum()
        (0.1 * loss).backward()
        found.append([loss.detach(), *(p.grad for p in chunk.parameters())])
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_in_training_are_those_of_the_logits(ranks, family):
    ((ours, theirs),) = ranks.run(1, both, FAMILIES[family])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_evaluation_measures_the_cross_entropy_alone(ranks):
    smoothed = {"objective__label_smoothing": 0.1, "objective__z_loss": 0.01}
    (((plain, *_), evaluated),) = ranks.run(1, both, {})
    (((trained, *_), (same, *_)),) = ranks.run(1, both, smoothed)
    assert torch.equal(evaluated[0], same)
    assert trained > plain * 1.01
