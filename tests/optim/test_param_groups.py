"""Parameter groups of a real network, and the corners: ties, frozen parameters, stacked biases, empty groups."""

import pytest
import torch
from torch import nn

from dist_plm.optim.depth import Depths
from dist_plm.optim.param_groups import ParamGroup, parameter_groups
from dist_plm.spec.derived import derive
from dist_plm.spec.optimizers import OPTIMIZERS
from tests.spec.make import pretrain


def groups_of(named, weight_decay: float, all_alike: bool = False, layers: int = 2, **changes) -> list[ParamGroup]:
    optim = OPTIMIZERS["lamb"](
        lr=1e-3,
        weight_decay=weight_decay,
        decay_norms_and_biases=all_alike,
        adapt_norms_and_biases=all_alike,
        **changes,
    )
    model = derive(pretrain(model__layers=layers), world_size=1, vocab_size=10).model
    return parameter_groups(named, optim, Depths.of(model))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)
        self.rms = nn.RMSNorm(4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embedding.weight


def names_of(module: nn.Module, params: list[nn.Parameter]) -> list[str]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [names[id(parameter)] for parameter in params]


def test_vectors_are_spared_and_matrices_decayed():
    block = Block()
    decayed, spared = groups_of(block.named_parameters(), 0.1)
    assert names_of(block, decayed["params"]) == ["embedding.weight", "linear.weight"]
    assert names_of(block, spared["params"]) == ["norm.weight", "norm.bias", "linear.bias", "rms.weight"]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert (decayed["adapt"], spared["adapt"]) == (True, False)


def test_everything_is_decayed_and_adapted_when_told():
    block = Block()
    matrices, vectors = groups_of(block.named_parameters(), 0.1, all_alike=True)
    assert sorted(names_of(block, matrices["params"] + vectors["params"])) == sorted(
        name for name, _ in block.named_parameters()
    )
    assert matrices["weight_decay"] == vectors["weight_decay"] == 0.1
    assert matrices["adapt"]
    assert vectors["adapt"]


def test_lower_layers_learn_slower():
    named = [
        (name, nn.Parameter(torch.zeros(shape)))
        for name, shape in [
            ("module.embedding.word.weight", (3, 2)),
            ("module.layers.0.mlp.up.weight", (2, 2)),
            ("module.layers.0.mlp.up.bias", (2,)),
            ("module.layers.1.mlp.up.weight", (2, 2)),
            ("module.final_norm.weight", (2,)),
            ("head.weight", (2, 2)),
        ]
    ]
    groups = groups_of(named, 0.1, layer_decay=0.5)
    assert len(groups) == 2 * (2 + 2)
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert [scales[id(parameter)] for _, parameter in named] == [0.125, 0.25, 0.25, 0.5, 1.0, 1.0]
    spared = next(group for group in groups if group["params"] and group["params"][0] is named[2][1])
    assert spared["weight_decay"] == 0.0


def test_stacked_biases_are_biases_and_a_relative_attention_bias_is_an_embedding():
    stacked, relative = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2, 3))
    named = [("experts.bias", stacked), ("relative_attention_bias.weight", relative)]
    decayed, spared = groups_of(named, 0.1)
    assert decayed["params"][0] is relative
    assert spared["params"][0] is stacked
    assert len(decayed["params"]) == len(spared["params"]) == 1


def test_tied_parameters_once_and_frozen_ones_never():
    block = Block()
    block.linear.weight.requires_grad_(False)
    twice = [*block.named_parameters(remove_duplicate=False), *block.named_parameters()]
    decayed, _ = groups_of(twice, 0.1)
    assert names_of(block, decayed["params"]) == ["embedding.weight"]


@pytest.mark.parametrize("spare", [True, False])
def test_adamw_takes_the_groups_and_decays_by_them(spare):
    """With zero gradients AdamW does nothing but decay: w <- w (1 - lr x weight_decay)."""
    block = Block()
    before = {name: parameter.detach().clone() for name, parameter in block.named_parameters()}
    groups = groups_of(block.named_parameters(), 0.5, all_alike=not spare)
    optimizer = torch.optim.AdamW([dict(group) for group in groups], lr=0.1)
    for parameter in block.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in block.named_parameters():
        shrink = 1.0 if spare and parameter.dim() < 2 else 0.95
        torch.testing.assert_close(parameter.detach(), before[name] * shrink)
