"""The Triton kernels beside the forms of the CPU, run by Triton's interpreter: on a machine without a GPU as well."""

import os
from typing import Any

import pytest
import torch
from torch.nn import functional

from dist_plm.models.kernels import attention as attention_on_cpu
from dist_plm.models.kernels import dropout as dropout_on_cpu

pytest.importorskip("triton", reason="Triton is there on Linux alone")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles here: tests/gpu looks at what comes of it", allow_module_level=True)

from dist_plm.models.kernels import attention_triton, dropout_triton

KEYS = torch.tensor([3, -(2**62), 2**63 - 1])
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
#: Half a step of each type, but for bf16, which the interpreter cuts off rather than rounds.
CLOSE = {torch.float32: 1e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-11}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 37, 1100])
def test_dropout_add(dtype, width):
    x, residual = (torch.randn(5, 3, width).to(dtype) for _ in range(2))
    for other in (None, residual):
        ours = dropout_triton.dropout_add(x, other, KEYS, 2**33 + 7, 0.3)
        theirs = dropout_on_cpu.dropout_add(x, other, KEYS, 2**33 + 7, 0.3)
        torch.testing.assert_close(ours, theirs, rtol=CLOSE[dtype], atol=CLOSE[dtype])
    ones = torch.ones_like(x)
    masks = [form.dropout_add(ones, None, KEYS, 5, 0.3) == 0 for form in (dropout_triton, dropout_on_cpu)]
    assert torch.equal(*masks)


# The interpreter cannot multiply matrices of bf16.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("bias_shape", [None, (1, 2, 80, 70), (3, 1, 1, 70), (3, 2, 80, 70)], ids=str)
@pytest.mark.parametrize(("causal", "probability"), [(False, 0.4), (True, 0.4), (True, 0.0)])
def test_attention(dtype, bias_shape, causal, probability):
    if causal and bias_shape is not None and dtype != torch.float32:
        pytest.skip("the interpreter is slow, and types do not meet causality")
    torch.manual_seed(1)
    query, grad = (torch.randn(80, 3, 2, 24).to(dtype).permute(1, 2, 0, 3) for _ in range(2))
    key, value = (torch.randn(70, 3, 4, 24).to(dtype)[:, :, i::2].permute(1, 2, 0, 3) for i in range(2))
    bias = None if bias_shape is None else torch.randn(bias_shape).to(dtype)
    drawn = (6, 4, causal, 0.3, probability)
    close: dict[str, Any] = {"rtol": 8 * CLOSE[dtype], "atol": 8 * CLOSE[dtype]}
    out, lse = attention_triton.attention(query, key, value, bias, KEYS, *drawn)
    theirs, empty = attention_on_cpu.attention(query, key, value, bias, KEYS, *drawn)
    torch.testing.assert_close(out, theirs, **close)
    ours = attention_triton.attention_backward(grad, query, key, value, bias, KEYS, out, lse, bias is not None, *drawn)
    theirs = attention_on_cpu.attention_backward(
        grad, query, key, value, bias, KEYS, out, empty, bias is not None, *drawn
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **close)


def test_masks_of_attention_are_the_same_to_the_bit():
    zeros, eye = torch.zeros(3, 2, 96, 96), torch.eye(96).expand(3, 2, 96, 96)
    drawn = (6, 4, False, 1.0, 0.4)
    masks = [
        form.attention(zeros, zeros, eye, None, KEYS, *drawn)[0] == 0 for form in (attention_triton, attention_on_cpu)
    ]
    assert torch.equal(*masks)
    assert 0.3 < masks[0].float().mean() < 0.5


def test_rows_that_see_little_and_nothing_at_first():
    """A whole block of keys is masked before the first that counts."""
    query, key, value = (torch.randn(1, 1, 100, 16) for _ in range(3))
    bias = torch.full((1, 1, 100, 100), -torch.inf)
    bias[..., 90:] = 0.0
    for form in (attention_triton, attention_on_cpu):
        out, _ = form.attention(query, key, value, bias, KEYS[:1], 0, 0, False, 0.3, 0.0)
        expected = functional.scaled_dot_product_attention(query, key, value, bias, scale=0.3)
        torch.testing.assert_close(out, expected)
