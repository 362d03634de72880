"""Products in 8 bits are those of the rounded factors, forward and backward, whatever the scale."""

import pytest
import torch
from torch import Tensor

from dist_plm.models.kernels.linear_fp8 import fp8_linear, quantized

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
BF16 = 2.0**-8


def rounded(x: Tensor, kind: torch.dtype) -> Tensor:
    values, unit = quantized(x, kind)
    return values.double() * unit.double()


def factors(rows: int = 30, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [3, rows / 3, 64], weight [48, 64], bias [48], and a gradient of the result; bf16."""
    draw = torch.Generator().manual_seed(seed)
    shapes = (3, rows // 3, 64), (48, 64), (48,), (3, rows // 3, 48)
    x, weight, bias, grad = (torch.randn(shape, generator=draw).bfloat16() for shape in shapes)
    return x, 0.02 * weight, bias, grad


def learnt(x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor) -> tuple[Tensor, ...]:
    """The result, and the gradients of all that is given."""
    given = [one.clone().requires_grad_() for one in (x, weight, bias) if one is not None]
    result = fp8_linear(*given)
    result.backward(grad)
    return result.detach(), *(one.grad for one in given)


@pytest.mark.parametrize("rows", [48, 30, 3])
def test_equals_the_product_of_rounded_factors(rows):
    x, weight, bias, grad = factors(rows)
    result, of_x, of_weight, of_bias = learnt(x, weight, bias, grad)
    small, kernel, small_grad = rounded(x, E4M3), rounded(weight, E4M3), rounded(grad, E5M2)
    expected = {
        "result": (result, small @ kernel.t() + bias.double()),
        "x": (of_x, small_grad @ kernel),
        "weight": (of_weight, small_grad.flatten(0, 1).t() @ small.flatten(0, 1)),
        "bias": (of_bias, grad.double().sum((0, 1))),
    }
    for name, (actual, exact) in expected.items():
        assert actual.dtype == torch.bfloat16
        assert float((actual.double() - exact).norm() / exact.norm()) < BF16, name


def test_the_order_of_what_a_cpu_adds_up_does_not_count():
    x, weight, _, _ = factors(600)
    order = torch.randperm(64)
    assert torch.equal(fp8_linear(x, weight), fp8_linear(x[..., order], weight[:, order]))


def test_rounding_loses_what_eight_bits_lose():
    """A mantissa of 3 bits is off by 2 to 3 % in the mean of squares, one of 2 bits by 5."""
    x, *_ = factors(3000)
    for kind, least, most in ((E4M3, 0.02, 0.035), (E5M2, 0.04, 0.065)):
        assert least < float((rounded(x, kind) - x).norm() / x.double().norm()) < most


def test_the_largest_number_lies_below_the_ends_of_the_type():
    for scale in (1e-20, 1.0, 255.0, 3e30):
        for kind, below in ((E4M3, 2.0**7), (E5M2, 2.0**14)):
            values, _ = quantized(torch.tensor([0.3, -1.0]).bfloat16() * scale, kind)
            assert below <= float(values.float().abs().max()) <= 2 * below


def test_scales_round_nothing():
    x, weight, _, grad = factors()
    plain = learnt(x, weight, None, grad)
    for of_x, of_weight, of_grad in ((2.0**20, 1.0, 1.0), (1.0, 2.0**-9, 1.0), (1.0, 1.0, 2.0**-30)):
        found = learnt(of_x * x, of_weight * weight, None, of_grad * grad)
        scales = of_x * of_weight, of_grad * of_weight, of_grad * of_x
        for actual, expected, scale in zip(found, plain, scales, strict=True):
            assert torch.equal(actual, scale * expected)


def test_zeros_give_zeros():
    x, weight, bias, grad = factors()
    result, of_x, of_weight, _ = learnt(0 * x, weight, bias, 0 * grad)
    assert torch.equal(result, bias.expand_as(result))
    assert not of_x.any()
    assert not of_weight.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_seen(value):
    for broken in range(3):
        x, weight, _, grad = factors()
        given = [x, weight, grad]
        given[broken].view(-1)[5] = value
        result, of_x, of_weight = learnt(given[0], given[1], None, given[2])
        assert result.isnan().all() == (broken < 2)
        assert of_x.isnan().all() == (broken > 0)
        assert of_weight.isnan().all() == (broken != 1)


def kept(weight_learns: bool) -> list[torch.dtype]:
    x, weight, _, _ = factors()
    found: list[torch.dtype] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor.dtype)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fp8_linear(x.requires_grad_(), weight.requires_grad_(weight_learns))
    return found


def test_the_input_is_kept_in_8_bits_and_not_for_a_weight_that_does_not_learn():
    assert kept(True) == [E4M3, torch.float32, torch.bfloat16]
    assert kept(False) == [torch.bfloat16]
