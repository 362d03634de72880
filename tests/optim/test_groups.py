"""Weight decay groups of a real network, and the corners: ties, frozen parameters, stacked biases, empty groups."""

import pytest
import torch
from torch import nn

from dist_plm.optim.groups import decay_groups


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
    decayed, spared = decay_groups(block.named_parameters(), 0.1, False)
    assert names_of(block, decayed["params"]) == ["embedding.weight", "linear.weight"]
    assert names_of(block, spared["params"]) == ["norm.weight", "norm.bias", "linear.bias", "rms.weight"]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


def test_everything_is_decayed_when_told():
    block = Block()
    decayed, spared = decay_groups(block.named_parameters(), 0.1, True)
    assert names_of(block, decayed["params"]) == [name for name, _ in block.named_parameters()]
    assert spared["params"] == []


def test_stacked_biases_are_biases_and_a_relative_attention_bias_is_an_embedding():
    stacked, relative = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2, 3))
    named = [("experts.bias", stacked), ("relative_attention_bias.weight", relative)]
    decayed, spared = decay_groups(named, 0.1, False)
    assert decayed["params"][0] is relative
    assert spared["params"][0] is stacked
    assert len(decayed["params"]) == len(spared["params"]) == 1


def test_tied_parameters_once_and_frozen_ones_never():
    block = Block()
    block.linear.weight.requires_grad_(False)
    twice = [*block.named_parameters(remove_duplicate=False), *block.named_parameters()]
    decayed, _ = decay_groups(twice, 0.1, False)
    assert names_of(block, decayed["params"]) == ["embedding.weight"]


@pytest.mark.parametrize("spare", [True, False])
def test_adamw_takes_the_groups_and_decays_by_them(spare):
    """With zero gradients AdamW does nothing but decay: w <- w (1 - lr x weight_decay)."""
    block = Block()
    before = {name: parameter.detach().clone() for name, parameter in block.named_parameters()}
    groups = decay_groups(block.named_parameters(), 0.5, not spare)
    optimizer = torch.optim.AdamW([dict(group) for group in groups], lr=0.1)
    for parameter in block.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in block.named_parameters():
        shrink = 1.0 if spare and parameter.dim() < 2 else 0.95
        torch.testing.assert_close(parameter.detach(), before[name] * shrink)
