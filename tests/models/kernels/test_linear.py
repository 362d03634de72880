"""Products of oneDNN beside PyTorch's default, and of 16 bits made in fp32: numbers agree to rounding, and what is too small
for another way stays."""

from itertools import product as product_of

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from dist_plm.models.kernels.linear import (
    add_product,
    linear,
    long_product,
    multiplying_by,
    product,
    wide_linear,
    widened,
    widens,
)

#: Rows, inputs, outputs: the last below what is worth a call.
SHAPES = [(300, 96, 260), (7, 1024, 4999), (4, 8, 8)]


def inputs(shape: tuple[int, int, int], dtype=torch.float32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    rows, width, outputs = shape
    x, weight, bias = (torch.randn(size, generator=draw) for size in ((rows, 2, width), (outputs, width), (outputs,)))
    return [values.to(dtype).requires_grad_() for values in (x, weight / width**0.5, bias)]


def gradient_and_input(dtype: torch.dtype, outputs: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(40, outputs, generator=draw).to(dtype), torch.randn(40, 64, generator=draw).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_agrees_with_the_default_forward_and_backward(shape, with_bias):
    x, weight, bias = inputs(shape)
    arguments = (x, weight, bias) if with_bias else (x, weight)
    results = []
    for wanted in (False, True):
        with multiplying_by(onednn=wanted):
            out = linear(*arguments)
        results.append([out, *torch.autograd.grad(out.tanh().sum(), arguments)])
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.detach().abs().max().item())


@pytest.mark.parametrize("learns", product_of([True, False], repeat=3))
def test_factors_are_kept_for_what_learns(learns):
    """As PyTorch's own product keeps them; and what learns has the same gradients to the bit."""
    expected = None
    for chosen in ((True, True, True), learns):
        given = [x.detach().requires_grad_(one) for x, one in zip(inputs(SHAPES[0]), chosen, strict=True)]
        kept = list[tuple[int, ...]]()
        with (
            multiplying_by(onednn=True),
            saved_tensors_hooks(lambda x, kept=kept: kept.append(tuple(x.shape)) or x, lambda x: x),
        ):
            out = linear(*given)
        if out.requires_grad:
            out.tanh().sum().backward()
        expected = expected or [x.grad for x in given]
    x, weight, _ = given
    assert kept == ([tuple(x.shape)] if learns[1] else []) + ([tuple(weight.shape)] if learns[0] else [])
    for one, other, wanted in zip(given, expected, learns, strict=True):
        assert torch.equal(one.grad, other) if wanted else one.grad is None


def test_only_large_products_in_fp32_are_taken():
    for shape, dtype, taken in ((SHAPES[0], torch.float32, True), (SHAPES[2], torch.float32, False)):
        with multiplying_by(onednn=True):
            out = linear(*inputs(shape, dtype))
        assert (type(out.grad_fn).__name__ == "_LinearBackward") is taken
    x, weight, bias = inputs(SHAPES[0], torch.bfloat16)
    with multiplying_by(onednn=True):
        out = linear(x, weight, bias)
    assert torch.equal(out, functional.linear(x, weight, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wanted", [False, True])
def test_products_of_views_are_added_up_in_fp32(dtype, wanted):
    grad, x = gradient_and_input(dtype, 5000)
    total = torch.ones(5000, 64)
    with multiplying_by(onednn=wanted):
        add_product(total, grad.t(), x)
        alone = product(grad.t(), x)
        begun = torch.full_like(total, torch.nan)
        add_product(begun, grad.t(), x, begins=True)
    exact = 1 + grad.double().t() @ x.double()
    close = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(total.double(), exact, rtol=close, atol=10 * close)
    torch.testing.assert_close(alone.double(), exact - 1, rtol=close, atol=10 * close)
    torch.testing.assert_close(begun.double(), exact - 1, rtol=close, atol=10 * close)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_by_fp32_are_those_of_fp32_rounded_once(shape, with_bias, onednn, dtype):
    inputs_16 = inputs(shape, dtype)[: 3 if with_bias else 2]
    inputs_32 = [values.detach().float().requires_grad_() for values in inputs_16]
    with multiplying_by(onednn=onednn, fp32=True):
        out = linear(*inputs_16)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        found = [out, *torch.autograd.grad(out, inputs_16, grad)]
        exact = linear(*inputs_32)
        expected = [exact, *torch.autograd.grad(exact, inputs_32, grad.float())]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert torch.equal(one, other.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_by_fp32_are_added_up_unrounded(dtype):
    grad, x = gradient_and_input(dtype, 300)
    total = torch.ones(300, 64)
    with multiplying_by(fp32=True):
        add_product(total, grad.t(), x)
        alone = product(grad.t(), x)
    exact = grad.double().t() @ x.double()
    torch.testing.assert_close(total.double(), 1 + exact, rtol=1e-5, atol=1e-4)
    assert torch.equal(alone, torch.mm(grad.float().t(), x.float()).to(dtype))


@pytest.mark.parametrize(("rows", "wide"), [(4, False), (64, True)])
def test_of_few_rows_a_weight_is_not_turned_to_fp32(rows, wide):
    x, weight = torch.randn(rows, 32).bfloat16(), torch.randn(64, 32).bfloat16()
    with multiplying_by(fp32=True), torch.no_grad(), torch.profiler.profile() as profile:
        linear(x, weight)
    assert ("aten::_to_copy" in {event.name for event in profile.events()}) is wide


@pytest.mark.parametrize("way", [{}, {"onednn": True}, {"fp32": True}], ids=["default", "onednn", "fp32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("columns", [4096, 4097, 8500])
def test_made_in_parts_products_of_a_vocabulary_are_those_of_the_whole(columns, with_bias, dtype, way):
    draw = torch.Generator().manual_seed(0)
    shapes = ((390, 24), (columns, 24), (columns,))
    x, weight, bias = (torch.randn(shape, generator=draw).to(dtype) for shape in shapes)
    with multiplying_by(**way), torch.no_grad():
        wide, factor = widened(x), widened(weight)
        logits = wide_linear(wide, factor, widened(bias) if with_bias else None)
        of_x = torch.full((390, 24), torch.nan, dtype=dtype)
        long_product(logits, factor, of_x)
    exact = functional.linear(x.double(), weight.double(), bias.double() if with_bias else None)
    rounding = 1e-5 if wide.dtype == torch.float32 else 1e-2
    torch.testing.assert_close(logits.double(), exact, rtol=rounding, atol=rounding * exact.abs().max().item())
    exact = logits.double() @ weight.double()
    rounding = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(of_x.double(), exact, rtol=rounding, atol=rounding * exact.abs().max().item())


def test_what_is_chosen_for_a_while_ends():
    with multiplying_by(fp32=True):
        with multiplying_by(onednn=True):
            assert not widens(torch.ones(1).bfloat16())
        assert widens(torch.ones(1).bfloat16())
        assert not widens(torch.ones(1))
        assert not widens(torch.ones(1, dtype=torch.bfloat16, device="meta"))
    assert not widens(torch.ones(1).bfloat16())
