import pytest
import torch
from torch.nn import functional

from dist_plm.models.layers.norms import LayerNorm, RMSNorm
from tests.ranks.made_tensors import MadeTensors


@pytest.mark.parametrize("shape", [(3, 5, 48), (700, 2, 200), (1, 1, 8)], ids=str)
def test_rms_norm_and_its_gradient(shape):
    """Beside PyTorch's of twice the precision; more rows than one block holds."""
    torch.manual_seed(0)
    norm = RMSNorm(shape[-1], 1e-5, torch.float32, torch.device("cpu"), False)
    torch.nn.init.normal_(norm.weight, 1.0)
    hidden, direction = torch.randn(shape, requires_grad=True), torch.randn(shape)
    exact, weight = (x.detach().double().requires_grad_() for x in (hidden, norm.weight))
    expected = functional.rms_norm(exact, weight.shape, weight, 1e-5)
    result = norm(hidden)
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-6)
    ours = torch.autograd.grad(result, (hidden, norm.weight), direction)
    theirs = torch.autograd.grad(expected, (exact, weight), direction.double())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("shape", [(3, 5, 48), (700, 2, 200), (1, 1, 8)], ids=str)
def test_layer_norm_and_its_gradient(shape):
    """Far from zero, where a variance of rounded means would be wrong."""
    torch.manual_seed(0)
    norm = LayerNorm(shape[-1], 1e-5, torch.float32, torch.device("cpu"), False)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter, 1.0)
    hidden, direction = (5 + torch.randn(shape)).requires_grad_(), torch.randn(shape)
    exact, weight, bias = (x.detach().double().requires_grad_() for x in (hidden, norm.weight, norm.bias))
    expected = functional.layer_norm(exact, weight.shape, weight, bias, 1e-5)
    result = norm(hidden)
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-5)
    ours = torch.autograd.grad(result, (hidden, norm.weight, norm.bias), direction)
    theirs = torch.autograd.grad(expected, (exact, weight, bias), direction.double())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_of_what_does_not_learn_nothing_is_added_up(norm):
    norm = norm(48, 1e-5, torch.bfloat16, torch.device("cpu"), False)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter, 1.0)
    told, direction = [], torch.randn(30, 48).bfloat16()
    hidden = torch.randn(30, 48).bfloat16()
    for learns in (True, False):
        x = hidden.clone().requires_grad_()
        norm.requires_grad_(learns)
        with MadeTensors() as made:
            norm(x).backward(direction)
        assert ((48,) in made.shapes) == learns
        told.append(x.grad)
    assert torch.equal(*told)


def test_rms_norm_of_nothing_but_zeros_is_zero():
    norm = RMSNorm(16, 1e-5, torch.bfloat16, torch.device("cpu"), False)
    torch.nn.init.ones_(norm.weight)
    hidden = torch.zeros(4, 16, dtype=torch.bfloat16, requires_grad=True)
    norm(hidden).sum().backward()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()
