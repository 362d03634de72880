"""The optimizer that a configuration names makes the updates that the papers say, over groups with rates of their own."""

import pytest
import torch

from dist_plm.optim.base import build_optimizer, fill_state, set_learning_rate
from dist_plm.optim.segment_map import Segment, SegmentMap, Slot
from dist_plm.spec.optimizers import OPTIMIZERS


def optimizer_of(name: str, **changes):
    weights = [torch.nn.Parameter(torch.linspace(-1.0, 1.0, 6)), torch.nn.Parameter(torch.linspace(2.0, 3.0, 4))]
    groups = [
        {"params": [weight], "weight_decay": 0.0, "adapt": True, "lr_scale": scale}
        for weight, scale in zip(weights, (1.0, 0.5), strict=True)
    ]
    optimizer = build_optimizer(OPTIMIZERS[name](lr=1.0, **changes), groups)
    if name in ("lamb", "adafactor"):
        segments = {weight: [Segment(0, weight.numel(), i)] for i, weight in enumerate(weights)}
        optimizer.bind(SegmentMap([Slot("a", True, (6,)), Slot("b", True, (4,))], segments))
    return optimizer, weights


@pytest.mark.parametrize("name", ["adamw", "adam", "lamb", "sgd", "adafactor"])
def test_state_exists_before_the_first_step_and_changes_nothing(name):
    changes = {"momentum": 0.9} if name == "sgd" else {}
    (early, a), (late, b) = optimizer_of(name, **changes), optimizer_of(name, **changes)
    optim = OPTIMIZERS[name](lr=1.0)
    fill_state(early, optim)
    names = optim.element_moments("", (6,))
    assert all(set(early.state[w]) - {"step"} == set(names) for w in a)
    assert len(names) == {"adamw": 2, "adam": 2, "lamb": 2, "sgd": 1, "adafactor": 1}[name]
    for step in range(3):
        for optimizer, weights in ((early, a), (late, b)):
            for weight in weights:
                weight.grad = torch.full_like(weight, 0.5 + step)
            set_learning_rate(optimizer, 0.1)
            optimizer.step()
    for one, other in zip(a, b, strict=True):
        assert torch.equal(one, other)


def test_groups_take_their_share_of_the_rate():
    optimizer, weights = optimizer_of("sgd")
    before = [weight.detach().clone() for weight in weights]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    set_learning_rate(optimizer, 0.2)
    optimizer.step()
    torch.testing.assert_close(before[0] - weights[0].detach(), torch.full((6,), 0.2))
    torch.testing.assert_close(before[1] - weights[1].detach(), torch.full((4,), 0.1))


def test_nesterov_looks_ahead():
    """Sutskever et al. 2013: after two equal gradients g the steps are g (1 + m) and g (1 + m + m^2)."""
    optimizer, (weight, other) = optimizer_of("sgd", momentum=0.5, nesterov=True)
    other.grad = torch.zeros_like(other)
    start = weight.detach().clone()
    set_learning_rate(optimizer, 1.0)
    for _ in range(2):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    torch.testing.assert_close(start - weight.detach(), torch.full((6,), 1.5 + 1.75))
