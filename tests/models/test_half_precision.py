"""Norms and softmax add up in fp32 where weights and activations are of 16 bits."""

from unittest import mock

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from dist_plm.models.kernels.look_up import look_up
from dist_plm.models.layers import attention
from dist_plm.models.layers.attention import CoreAttention
from dist_plm.models.layers.dropout import Site
from dist_plm.models.layers.norms import build_norm
from dist_plm.models.sequence_context import SequenceContext
from dist_plm.spec.families.gpt import GPTConfig
from tests.parts import model_context_of
from tests.ranks.test_encoder_parts import groups_of
from tests.ranks.training import configure

LENGTH = 1024
KEYS = torch.ones(len(Site), 1, dtype=torch.int64)
#: Of one rounding of the result.
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10}


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_norms(norm, dtype):
    """The squares of 300 are no numbers of fp16, and the sum of as many is none that bf16 could add one more to."""
    model = GPTConfig(layers=1, hidden=4096, heads=1, norm=norm)
    module = build_norm(model, dtype, torch.device("cpu"), sequence_parallel=False)
    for name, parameter in module.named_parameters():
        torch.nn.init.constant_(parameter, float(name == "weight"))
    hidden = (300 * torch.randn(4, 4096, generator=torch.Generator().manual_seed(0)) + 500).to(dtype)
    exact = hidden.double()
    if norm == "layernorm":
        exact = exact - exact.mean(-1, keepdim=True)
    exact = exact / exact.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(module(hidden).double(), exact, rtol=ROUNDING[dtype], atol=ROUNDING[dtype] / 10)


def attend(world, dtype: torch.dtype, changes: dict, documents: bool) -> tuple[torch.Tensor, float]:
    config = configure(1, model__heads=1, model__hidden=16, **changes)
    core = CoreAttention(model_context_of(config, groups_of(world, config), torch.device("cpu")), Site.ATTENTION_SCORES)
    # One key scores 6 more than all others, which together still weigh more: exp(-6) x 1023 = 2.5.
    query, key, value = (torch.zeros(LENGTH, 1, 16, dtype=dtype) for _ in range(3))
    query[..., 0], key[0, 0, 0], value[0] = 4.0, 6.0, 1.0
    same = torch.zeros(1, LENGTH, dtype=torch.int32) if documents else None
    context = SequenceContext(causal=False, documents=same, keys=KEYS)
    weight = torch.tensor([6.0] + [0.0] * (LENGTH - 1), dtype=torch.float64).softmax(-1)[0]
    return core(query, key, value, context).detach(), float(weight)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(
    ("changes", "documents"),
    [({}, False), ({}, True), ({"model__attention_dropout": 1e-9}, False)],
    ids=["plain", "masked", "dropout"],
)
def test_softmax(ranks, dtype, changes, documents):
    """Added one by one in bf16, weights of 0.0025 beside 1 would be lost."""
    ((result, weight),) = ranks.run(1, attend, dtype, changes, documents)
    torch.testing.assert_close(
        result.double(), torch.full_like(result, weight).double(), rtol=2 * ROUNDING[dtype], atol=0
    )
    assert weight < 0.3


def gradients_of_attention(world, keys: int, changes: dict, relative: bool) -> tuple[set[str], list[float]]:
    """The kernels by which bf16 gradients are found, and how far these are from exact ones."""
    config = configure(1, model__heads=2, model__hidden=32, **changes)
    core = CoreAttention(model_context_of(config, groups_of(world, config), torch.device("cpu")), Site.ATTENTION_SCORES)
    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(keys, 2, 32, generator=draw).bfloat16().requires_grad_() for _ in range(3)]
    bias = torch.randn(1, 2, keys, keys, generator=draw).bfloat16().requires_grad_() if relative else None
    leaves = inputs if bias is None else [*inputs, bias]
    direction = torch.randn(keys, 2, 32, generator=draw).bfloat16()
    context = SequenceContext(causal=not relative, bias=bias)
    of_bf16 = mock.patch.object(attention, "_MULTIPLIES_BF16", True)
    with of_bf16, profile(activities=[ProfilerActivity.CPU]) as profiled:
        found = torch.autograd.grad(core(*inputs, context), leaves, direction)
    query, key, value, *exact_bias = wide = [x.detach().double().requires_grad_() for x in leaves]
    query, key, value = (x.view(keys, 2, 2, 16).permute(1, 2, 0, 3) for x in (query, key, value))
    scores = query @ key.mT / 4 + (exact_bias[0] if relative else 0)
    scores = scores if relative else scores.masked_fill(torch.ones(keys, keys).triu(1) > 0, -torch.inf)
    mixed = (scores.softmax(-1) @ value).permute(2, 0, 1, 3).flatten(2)
    exact = torch.autograd.grad(mixed, wide, direction.double())
    names = {event.key for event in profiled.key_averages() if "attention" in event.key and "backward" in event.key}
    return names, [error(one, other) for one, other in zip(found, exact, strict=True)]


@pytest.mark.parametrize("relative", [False, True], ids=["causal", "relative"])
@pytest.mark.parametrize(("keys", "kernel"), [(16, "dist_plm::"), (256, "dist_plm::"), (257, "aten::")])
def test_gradients_of_short_rows_are_found_by_whole_heads(ranks, keys, kernel, relative):
    """With a bias that has a gradient PyTorch fuses nothing, ours does where rows are short."""
    ((names, errors),) = ranks.run(1, gradients_of_attention, keys, {}, relative)
    assert all(name.startswith(kernel) for name in names)
    assert names or (relative and kernel == "aten::")
    assert max(errors) < 2 * ROUNDING[torch.bfloat16]


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative, of vectors."""
    return float((found.double() - exact).norm() / exact.norm())


#: Of the largest: 10⁸ elements.
ROWS = pytest.mark.parametrize("rows", [13_000, pytest.param(130_210, marks=pytest.mark.slow)])
SUMS = {torch.float32: 1e-6, **ROUNDING}


@ROWS
@pytest.mark.parametrize("dtype", SUMS)
@pytest.mark.parametrize("kind", ["constant", "random"])
def test_gradients_of_what_all_tokens_share(kind, dtype, rows):
    """Added up one after the other in bf16, 13,000 gradients of one row would be as large as 256 of them."""
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, 768, generator=draw).to(dtype)
    gradient = torch.full_like(hidden, 0.1) if kind == "constant" else torch.randn(rows, 768, generator=draw).to(dtype)
    exact = gradient.double().sum(0)

    table = torch.zeros(3, 768, dtype=dtype, requires_grad=True)
    look_up(torch.ones(rows, dtype=torch.int64), table).backward(gradient)
    assert table.grad is not None
    assert error(table.grad[1], exact) < SUMS[dtype]
    assert not table.grad[[0, 2]].any()

    for norm in ("layernorm", "rmsnorm"):
        model = GPTConfig(layers=1, hidden=768, heads=1, norm=norm)
        module = build_norm(model, dtype, torch.device("cpu"), sequence_parallel=False)
        for name, parameter in module.named_parameters():
            torch.nn.init.constant_(parameter, float(name == "weight"))
        module(hidden.requires_grad_()).backward(gradient)
        wide = hidden.detach().double()
        normed = wide - wide.mean(-1, keepdim=True) if norm == "layernorm" else wide
        normed *= (normed.square().mean(-1, keepdim=True) + model.norm_eps).rsqrt()
        of_weight, of_bias = module.weight.grad, getattr(module, "bias", None)
        assert error(of_weight, (normed * gradient.double()).sum(0)) < SUMS[dtype]
        assert of_bias is None or error(of_bias.grad, exact) < SUMS[dtype]
