"""The Triton kernels beside the forms of the CPU, run by Triton's interpreter: on a machine without a GPU as well."""

import itertools
import os
from typing import Any, cast

import pytest
import torch
from torch.nn import functional

from dist_plm.models.kernels import attention as attention_on_cpu
from dist_plm.models.kernels import dropout as dropout_on_cpu
from dist_plm.models.kernels.attention import QUERY_BLOCK

pytest.importorskip("triton", reason="Triton is there on Linux alone")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("Triton compiles here: tests/gpu looks at what comes of it", allow_module_level=True)

from dist_plm.models.kernels.gpu import attention_triton, dropout_triton, linear_loss_triton
from dist_plm.models.kernels.gpu.attention_tiles import TILES, Tile
from dist_plm.models.kernels.linear_loss import VocabRange
from dist_plm.spec.objectives.base import CROSS_ENTROPY, TokenLoss
from tests.ranks.selection import covering

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


BIASES = [None, (1, 2, 80, 70), (3, 1, 1, 70), (3, 2, 80, 70)]
#: The interpreter cannot multiply matrices of bf16, and is slow.
ATTENTION = list(itertools.product([torch.float32, torch.float16], BIASES, [(False, 0.4), (True, 0.4), (True, 0.0)]))
QUICK_ATTENTION = [
    *((torch.float32, bias, (False, 0.4)) for bias in BIASES),
    *((torch.float32, bias, (True, 0.4)) for bias in BIASES[:2]),
    (torch.float32, None, (True, 0.0)),
    (torch.float16, None, (True, 0.4)),
    (torch.float16, (3, 2, 80, 70), (False, 0.4)),
]


@pytest.mark.parametrize(("dtype", "bias_shape", "drawn"), covering(ATTENTION, QUICK_ATTENTION, ids=str))
def test_attention(dtype, bias_shape, drawn):
    causal, probability = drawn
    attend(dtype, (80, 70, 24), bias_shape, (6, 4, causal, 0.3, probability))


@pytest.mark.parametrize("tile", [(64, 32), (32, 64)], ids=str)
@pytest.mark.parametrize("bias_shape", [None, (1, 2, 128, 64)], ids=str)
def test_attention_of_whole_tiles(monkeypatch, tile, bias_shape):
    monkeypatch.setattr(attention_triton, "_tile", lambda *_: Tile(*tile, 4, 1))
    attend(torch.float32, (128, 64, 16), bias_shape, (0, 0, bias_shape is None, 0.3, 0.4))


def attend(dtype, sizes, bias_shape, drawn):
    torch.manual_seed(1)
    queries, width, size = sizes
    query, grad = (torch.randn(queries, 3, 2, size).to(dtype).permute(1, 2, 0, 3) for _ in range(2))
    key, value = (torch.randn(width, 3, 4, size).to(dtype)[:, :, i::2].permute(1, 2, 0, 3) for i in range(2))
    bias = None if bias_shape is None else torch.randn(bias_shape).to(dtype)
    close: dict[str, Any] = {"rtol": 8 * CLOSE[dtype], "atol": 8 * CLOSE[dtype]}
    out, lse = attention_triton.attention(query, key, value, bias, KEYS, None, None, *drawn)
    theirs, empty = attention_on_cpu.attention(query, key, value, bias, KEYS, None, None, *drawn)
    torch.testing.assert_close(out, theirs, **close)
    ours = attention_triton.attention_backward(
        grad, query, key, value, bias, KEYS, None, None, out, lse, bias is not None, *drawn
    )
    theirs = attention_on_cpu.attention_backward(
        grad, query, key, value, bias, KEYS, None, None, out, empty, bias is not None, *drawn
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **close)


@pytest.mark.parametrize("probability", [0.0, 0.4])
def test_attention_of_ranges(monkeypatch, probability):
    """Blocks outside of all ranges are never read; what no row sees, and rows that see nothing, have no gradient."""
    monkeypatch.setattr(attention_triton, "_tile", lambda *_: Tile(16, 16, 4, 1))
    torch.manual_seed(1)
    rows, places = torch.arange(56), torch.arange(56)
    low = torch.stack([(places // 24 * 24).clamp(min=4), (rows - 6).clamp(min=16)])
    high = torch.stack([places // 24 * 24 + 24, (rows + 7).clamp(max=32)]).clamp(max=56)
    ranges = torch.stack([low, high, torch.full((2, 56), 4)]).int()
    sees = (places >= low[..., None]) & (places < high[..., None])
    order = torch.arange(1, 57)
    first = torch.where(sees, order[:, None], 57).amin(1) - 1
    seen_by = torch.stack([first, torch.where(sees, order[:, None], 0).amax(1)]).int()
    query, key, value, grad = (torch.randn(2, 1, 56, 16) for _ in range(4))
    key[1, :, :16] = key[1, :, 32:] = value[1, :, 48:] = float("nan")
    query[1, :, 48:] = grad[1, :, 48:] = float("nan")
    bias, drawn = torch.randn(1, 1, 56, 56), (6, 4, False, 0.3, probability)
    keys = None if probability == 0.0 else KEYS[:2]
    inputs = (query, key, value, bias, keys, ranges, seen_by)
    out, lse = attention_triton.attention(*inputs, *drawn)
    whole = tuple(x if x is None else x.nan_to_num(0.0) if x.is_floating_point() else x for x in inputs)
    theirs, empty = attention_on_cpu.attention(*whole, *drawn)
    torch.testing.assert_close(out, theirs, rtol=1e-5, atol=1e-5)
    assert out[1, :, 48:].eq(0.0).all()
    ours = attention_triton.attention_backward(grad, *inputs, out, lse, True, *drawn)
    theirs = attention_on_cpu.attention_backward(grad.nan_to_num(0.0), *whole, out, empty, True, *drawn)
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        one = torch.cat([one[:1, :, :48], one[1:, :, :48]]) if number in (0, 3) else one
        torch.testing.assert_close(one, other[:, :, :48] if number in (0, 3) else other, rtol=1e-5, atol=1e-5)


def test_masks_of_attention_are_the_same_to_the_bit():
    zeros, eye = torch.zeros(3, 2, 96, 96), torch.eye(96).expand(3, 2, 96, 96)
    drawn = (6, 4, False, 1.0, 0.4)
    masks = [
        form.attention(zeros, zeros, eye, None, KEYS, None, None, *drawn)[0] == 0
        for form in (attention_triton, attention_on_cpu)
    ]
    assert torch.equal(*masks)
    assert 0.3 < masks[0].float().mean() < 0.5


@pytest.mark.parametrize("rows", sorted({tile.queries for tiles in TILES.values() for tile in tiles}))
def test_results_of_every_tile(monkeypatch, rows):
    """Masks to the bit as well: another half of them would be far from the CPU's."""
    assert QUERY_BLOCK % rows == 0
    monkeypatch.setattr(attention_triton, "_tile", lambda *_: Tile(rows, rows, 4, 2))
    attend(torch.float32, (72, 66, 16), (1, 2, 72, 66), (6, 4, True, 0.3, 0.4))


def test_rows_that_see_little_and_nothing_at_first():
    """A whole block of keys is masked before the first that counts."""
    query, key, value = (torch.randn(1, 1, 100, 16) for _ in range(3))
    bias = torch.full((1, 1, 100, 100), -torch.inf)
    bias[..., 90:] = 0.0
    for form in (attention_triton, attention_on_cpu):
        out, _ = form.attention(query, key, value, bias, KEYS[:1], None, None, 0, 0, False, 0.3, 0.0)
        expected = functional.scaled_dot_product_attention(query, key, value, bias, scale=0.3)
        torch.testing.assert_close(out, expected)


def test_rows_from_which_a_bias_hides_all_keys_give_zeros():
    query, key, value, grad = (torch.randn(2, 1, 40, 16) for _ in range(4))
    bias, drawn = torch.zeros(2, 1, 1, 40), (0, 0, False, 0.25, 0.3)
    bias[0, ..., 30:] = bias[1] = -torch.inf
    found = []
    for form in (attention_triton, attention_on_cpu):
        inputs = (query, key, value, bias, KEYS[:2], None, None)
        out, lse = form.attention(*inputs, *drawn)
        found.append([out, *form.attention_backward(grad, *inputs, out, lse, True, *drawn)])
    for ours, theirs in zip(*found, strict=True):
        assert ours[1].eq(0.0).all()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


class Alone:
    """In place of a process group of one rank."""

    @staticmethod
    def size() -> int:
        return 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("width", "valid", "first", "token_loss"),
    [
        (5000, 4900, 0, CROSS_ENTROPY),
        (5000, 4900, 0, TokenLoss(label_smoothing=0.2, z_loss=0.01)),
        (384, 384, 100, TokenLoss(label_smoothing=0.2)),
        (384, 384, 100, TokenLoss(z_loss=0.01)),
        (128, 0, 900, CROSS_ENTROPY),
    ],
)
def test_loss_and_gradient(dtype, width, valid, first, token_loss):
    torch.manual_seed(1)
    logits = (4 * torch.randn(6, width)).to(dtype)
    labels = torch.tensor([first, first + valid - 1, -1, first + 7, 5, -100])
    exact = logits[:, :valid].double().requires_grad_()
    mine = (labels >= first) & (labels < first + valid)
    # Of other ranks' labels this one knows the sum of exponentials alone.
    target = exact.gather(1, torch.where(mine, labels - first, 0)[:, None])[:, 0] * mine if valid else torch.zeros(6)
    smoothing, log_z = token_loss.label_smoothing, exact.logsumexp(1)
    expected = log_z - (1 - smoothing) * target - smoothing * exact.sum(1) / 6000 + token_loss.z_loss * log_z**2
    expected = torch.where(labels >= 0, expected, 0.0)
    columns = VocabRange(cast("Any", Alone()), first, valid, 6000)
    kept = logits.clone()
    losses = [
        linear_loss_triton.into_gradient(kept, labels, columns, token_loss, scale=8.0, gradient=wanted)
        for wanted in (False, True)
    ]
    assert torch.equal(*losses)
    if not valid:
        assert torch.equal(kept, torch.zeros_like(kept))
        return
    torch.testing.assert_close(losses[0].double(), expected, rtol=1e-5, atol=1e-5)
    expected.sum().backward()
    torch.testing.assert_close(kept[:, :valid].double(), 8.0 * exact.grad, rtol=2 * CLOSE[dtype], atol=8 * CLOSE[dtype])
    assert torch.equal(kept[:, valid:], torch.zeros_like(kept[:, valid:]))
