"""Every kernel beside the plain formula in fp64, with masks from the hash itself."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from dist_plm.distributed.device import Device
from dist_plm.models.kernels import linear_loss as linear_loss_module
from dist_plm.models.kernels.attention import KeyRanges
from dist_plm.models.kernels.linear_fp8 import fp8_linear, quantized
from dist_plm.models.kernels.linear_loss import VocabRange, linear_loss
from dist_plm.models.kernels.mask_bits import kept, row_words
from dist_plm.models.layers.dropout import attend_with_dropout, dropout_add
from dist_plm.models.layers.norms import LayerNorm, RMSNorm
from dist_plm.models.masks import ranges_of
from dist_plm.models.sequence_context import SequenceContext
from dist_plm.spec.objectives.base import TokenLoss
from tests.models.kernels.test_linear_loss import LOSSES, plain_loss
from tests.ranks.pool import World

pytestmark = pytest.mark.ranks

KEYS = torch.tensor([3, -(2**62), 2**63 - 1])
CPU = Device(kind="cpu", torch_device=torch.device("cpu"), backend="gloo")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
#: Of sums of some dozens of rounded products; products of fp32 are exact but for their order where TF32 is off.
CLOSE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def close(ours: list[Tensor], theirs: list[Tensor], dtype: torch.dtype) -> None:
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        scale = float(other.abs().max()) + 1e-3
        error = float((one.double().cpu() - other).abs().max()) / scale
        assert error < CLOSE[dtype], f"number {number} of {len(ours)}: {error:.2e} of the largest"


def gradients(out: Tensor, grad: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.device, out.dtype))]


def here(world: World, *tensors: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
    """Copies on the device, which gradients are wanted of."""
    device = world.device.torch_device
    return [x.to(device, dtype).detach().requires_grad_() for x in tensors if x is not None]


def mask(rows: np.ndarray, width: int, probability: float) -> Tensor:
    """Which elements of [..., B, rows] stay, by the keys of B samples."""
    words = row_words(KEYS.numpy().view(np.uint64)[:, None, None], rows)
    return kept(words.reshape(-1), width, probability).bool().view(*words.shape, width)


def dropped(world: World, dtype: torch.dtype, width: int) -> list[list[Tensor]]:
    x, residual, grad = (torch.randn(70, 3, width).to(dtype) for _ in range(3))
    inputs = here(world, x, residual, dtype=dtype)
    out = dropout_add(*inputs, 0.3, KEYS.to(inputs[0].device), slice_index=1, num_slices=2)
    keep = mask(np.arange(70, 140)[None], width, 0.3)[:, 0].transpose(0, 1).double() / 0.7
    exact = here(World(0, 1, CPU), x, residual, dtype=torch.float64)
    return [gradients(out, grad, inputs), gradients(exact[0] * keep + exact[1], grad, exact)]


def attended(world: World, dtype: torch.dtype, case: dict[str, Any]) -> list[list[Tensor]]:
    heads, queries, width, size = case["heads"], case["queries"], case["width"], case["size"]
    probability, bias_shape = case["probability"], case["bias"]
    query, grad = (torch.randn(queries, 3, heads, size).to(dtype).permute(1, 2, 0, 3) for _ in range(2))
    key, value = (torch.randn(width, 3, heads, size).to(dtype).permute(1, 2, 0, 3) for _ in range(2))
    bias = None
    if bias_shape is not None:
        bias = torch.randn(bias_shape).to(dtype)
        if case["context"] is None:
            bias[..., width // 2 : width // 2 + 3] = -torch.inf
            bias[0] = -torch.inf if case["hidden"] else bias[0]
    inputs = here(world, query, key, value, bias, dtype=dtype)
    ranges = None if case["context"] is None else ranges_of(case["context"], torch.arange(width))
    options = {"causal": case["causal"], "scale": 0.3, "probability": probability, "first_head": 6, "first_row": 4}
    keys = KEYS.to(inputs[0].device)
    told = None if ranges is None else KeyRanges(*(one.to(keys.device) for one in ranges))
    out = attend_with_dropout(*inputs[:3], inputs[3] if bias is not None else None, keys, ranges=told, **options)
    exact = here(World(0, 1, CPU), query, key, value, bias, dtype=torch.float64)
    scores = 0.3 * exact[0] @ exact[1].transpose(2, 3) + (exact[3] if bias is not None else 0.0)
    if case["context"] is not None:
        scores = scores.masked_fill(~sees(ranges, width), -torch.inf)
    if case["causal"]:
        scores = scores.masked_fill(torch.arange(width) > torch.arange(4, 4 + queries)[:, None], -torch.inf)
    scores = scores.masked_fill(torch.isneginf(scores), -torch.inf)  # no gradient, not even NaN, where nothing is seen
    rows = (np.arange(6, 6 + heads)[:, None] << 32) + np.arange(4, 4 + queries)
    keep = mask(rows, width, probability).double() / (1 - probability) if probability else torch.ones(1)
    if ranges is not None and probability:
        columns = torch.arange(width) - ranges.of_queries[2][:, None, :, None]
        keep = keep.gather(3, columns.clamp(min=0).expand(keep.shape))
    # A query that sees nothing gives zeros.
    weights = scores.softmax(-1).masked_fill(torch.isneginf(scores).all(-1, keepdim=True), 0.0)
    return [gradients(out, grad, inputs), gradients((weights * keep) @ exact[2], grad, exact)]


def sees(ranges: KeyRanges, width: int) -> Tensor:
    """Which keys each query sees, [1 or B, 1, 1 or Q, K]."""
    low, high, _ = ranges.of_queries[:, :, None, :, None]
    return (torch.arange(width) >= low) & (torch.arange(width) < high)


def scored(world: World, dtype: torch.dtype, chunk_bytes: int, token_loss: TokenLoss) -> list[list[Tensor]]:
    hidden, weight, bias = (torch.randn(*shape).to(dtype) for shape in ((300, 64), (1016, 64), (1016,)))
    labels = torch.where(torch.rand(300) < 0.2, -1, torch.randint(0, 1000, (300,)))
    inputs = here(world, hidden, weight, bias, dtype=dtype)
    group, before = dist.group.WORLD, linear_loss_module.LOSS_CHUNK_BYTES
    assert group is not None
    linear_loss_module.LOSS_CHUNK_BYTES = chunk_bytes
    try:
        loss = linear_loss(*inputs, labels.to(inputs[0].device), VocabRange(group, 0, 1000, 1000), token_loss)
    finally:
        linear_loss_module.LOSS_CHUNK_BYTES = before
    exact = here(World(0, 1, CPU), hidden, weight, bias, dtype=torch.float64)
    logits = functional.linear(*exact)[:, :1000]
    plain = plain_loss(logits, labels, token_loss)
    one = torch.tensor(0.5)
    return [gradients(loss, one, inputs), gradients(plain, one, exact)]


def normed(world: World, dtype: torch.dtype, kind: str) -> list[list[Tensor]]:
    norm = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}[kind](200, 1e-5, dtype, world.device.torch_device, False)
    x, grad, weight, shift = (torch.randn(*shape).to(dtype) for shape in ((9, 5, 200), (9, 5, 200), (200,), (200,)))
    values = [weight, shift][: len(list(norm.parameters()))]
    for parameter, value in zip(norm.parameters(), values, strict=True):
        parameter.data.copy_(value)
    inputs = here(world, x, dtype=dtype)
    ours = gradients(norm(inputs[0]), grad, [*inputs, *norm.parameters()])
    wide, *exact = here(World(0, 1, CPU), x, *values, dtype=torch.float64)
    centred = wide - wide.mean(-1, keepdim=True) if kind == "layernorm" else wide
    plain = centred * (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * exact[0] + sum(exact[1:])
    return [ours, gradients(plain, grad, [wide, *exact])]


def multiplied_in_8_bits(world: World) -> list[list[Tensor]]:
    x, weight, grad = (torch.randn(*shape).bfloat16() for shape in ((3, 10, 64), (48, 64), (3, 10, 48)))
    inputs = here(world, x, weight, dtype=torch.bfloat16)
    ours = gradients(fp8_linear(*inputs), grad, inputs)
    rounded = ((x, torch.float8_e4m3fn), (weight, torch.float8_e4m3fn), (grad, torch.float8_e5m2))
    x, weight, grad = (values.double() * unit for values, unit in (quantized(*one) for one in rounded))
    exact = here(World(0, 1, CPU), x, weight, dtype=torch.float64)
    return [ours, gradients(functional.linear(*exact), grad, exact)]


def masks_of_attention(world: World) -> Tensor:
    zeros = torch.zeros(3, 2, 96, 96, device=world.device.torch_device)
    eye = torch.eye(96, device=zeros.device).expand(3, 2, 96, 96)
    keys, drawn = KEYS.to(zeros.device), (6, 4, False, 1.0, 0.4)
    return (torch.ops.dist_plm.attention(zeros, zeros, eye, None, keys, None, None, *drawn)[0] != 0).cpu()


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 37), (torch.bfloat16, 1100), (torch.float16, 64)])
def test_dropout_add(on, dtype, width):
    close(*on(1, dropped, dtype, width)[0], dtype)


SHARED = torch.arange(150) // torch.tensor([[20], [70], [150]])
#: Head sizes of all presets, lengths that blocks do not divide, every form of bias.
ATTENTION = {
    "plain": {},
    "causal": {"causal": True, "queries": 130, "width": 134},
    "causal_without_dropout": {"causal": True, "probability": 0.0},
    "padding": {"bias": (3, 1, 1, 70)},
    "nothing_but_padding": {"bias": (3, 1, 1, 70), "hidden": True},
    "documents": {"bias": (3, 1, 80, 70)},
    "relative": {"bias": (1, 2, 80, 70), "probability": 0.1},
    "everything": {"bias": (3, 2, 80, 70), "causal": True},
    "wide_heads": {"size": 128, "queries": 65, "width": 129},
    "widest_heads": {"size": 256, "queries": 65, "width": 129},
    "odd_heads": {"size": 24},
    "more_heads_than_the_grid_has_rows": {"heads": 22_000, "queries": 2, "width": 2, "size": 16},
    "range_of_padding": {
        "queries": 80,
        "width": 150,
        "context": SequenceContext(False, lengths=torch.tensor([0, 65, 150])),
    },
    "range_of_documents": {"context": SequenceContext(False, documents=SHARED), "queries": 150, "width": 150},
    "range_of_causal_documents": {
        "context": SequenceContext(True, documents=SHARED),
        "queries": 150,
        "width": 150,
        "probability": 0.0,
    },
    "range_of_window": {"context": SequenceContext(False, window=40), "queries": 1100, "width": 1100, "heads": 1},
    "range_and_relative": {
        "context": SequenceContext(False, documents=SHARED),
        "queries": 150,
        "width": 150,
        "bias": (1, 2, 150, 150),
    },
}
DEFAULT = {"heads": 2, "queries": 80, "width": 70, "size": 64, "probability": 0.4, "bias": None, "causal": False}
DEFAULT |= {"context": None, "hidden": False}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ATTENTION)
def test_attention(on, dtype, case):
    close(*on(1, attended, dtype, DEFAULT | ATTENTION[case])[0], dtype)


def test_masks_of_attention_are_those_of_the_hash(on):
    (ours,) = on(1, masks_of_attention)
    rows = (np.arange(6, 8)[:, None] << 32) + np.arange(4, 100)
    assert torch.equal(ours, mask(rows, 96, 0.4))


@pytest.mark.parametrize(("dtype", "chunk_bytes", "token_loss"), itertools.product(DTYPES, [2**27, 2**18], LOSSES))
def test_linear_loss(on, dtype, chunk_bytes, token_loss):
    close(*on(1, scored, dtype, chunk_bytes, token_loss)[0], dtype)


def test_products_in_8_bits(on):
    close(*on(1, multiplied_in_8_bits)[0], torch.bfloat16)


@pytest.mark.parametrize(("dtype", "kind"), itertools.product(DTYPES, ["layernorm", "rmsnorm"]))
def test_norms(on, dtype, kind):
    close(*on(1, normed, dtype, kind)[0], dtype)
