import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from dist_plm.models.kernels import attention as kernel
from dist_plm.models.layers.dropout import (
    Site,
    attend_with_dropout,
    draws_masks,
    dropout_add,
    key_table,
    keys_of_layer,
    uniforms,
)
from dist_plm.spec.families import FAMILIES

WHOLE = {"slice_index": 0, "num_slices": 1}
MODEL = FAMILIES["gpt"](layers=8, hidden=32, heads=2)
SAMPLES = (11, 12, 13)


def keys_of(samples=SAMPLES, seed=5, layer=3, site=Site.MLP_OUTPUT):
    return keys_of_layer(key_table(MODEL, torch.tensor(samples), seed), layer)[site]


def drop(keys=None, shape=(64, 3, 32), probability=0.25, residual=None, **slices):
    keys = keys_of() if keys is None else keys
    return dropout_add(torch.ones(shape), residual, probability, keys, **(slices or WHOLE))


def kept(keys, rows, width, probability=0.5):
    """[rows, B, width] of -1 and 1, as fp64."""
    ones = torch.ones(rows, len(keys), width)
    return torch.where(dropout_add(ones, None, probability, keys, **WHOLE) > 0, 1.0, -1.0).double()


def test_rate_and_scale():
    for probability in (0.1, 0.25, 0.5, 1e-3):
        dropped = drop(shape=(2000, 3, 2048), probability=probability)
        zeros = (dropped == 0).double().mean().item()
        sigma = (probability * (1 - probability) / dropped.numel()) ** 0.5
        assert dropped.numel() > 10**7
        assert abs(zeros - probability) < 4 * sigma
        torch.testing.assert_close(
            dropped[dropped != 0], torch.tensor(1 / (1 - probability)).expand_as(dropped[dropped != 0])
        )


def test_slices_of_the_sequence_are_slices_of_the_mask():
    parts = [drop(shape=(16, 3, 32), slice_index=i, num_slices=4) for i in range(4)]
    assert torch.equal(torch.cat(parts), drop())


def test_a_longer_row_begins_with_the_mask_of_a_shorter_one():
    """So that padding a sequence or a vector changes nothing before it; odd widths too."""
    assert torch.equal(drop(shape=(80, 3, 47))[:64, :, :31], drop(shape=(64, 3, 31)))


def test_a_sample_is_dropped_alike_whatever_shares_its_microbatch():
    assert torch.equal(drop(keys_of((12,)), shape=(64, 1, 32))[:, 0], drop()[:, 1])


def test_every_part_of_the_key_counts():
    others = [
        keys_of(seed=6),
        keys_of(layer=4),
        keys_of(layer=-1),
        keys_of(site=Site.ATTENTION_OUTPUT),
        keys_of((14, 15, 16)),
    ]
    assert not any(torch.equal(drop(), drop(other)) for other in others)
    assert torch.equal(drop(), drop(keys_of()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_adds_the_residual_and_its_gradient_passes_what_it_kept(dtype):
    hidden, residual = (torch.randn(64, 3, 31, dtype=dtype, requires_grad=True) for _ in range(2))
    total = dropout_add(hidden, residual, 0.25, keys_of(), **WHOLE)
    mask = drop(shape=(64, 3, 31)).to(torch.float64)
    torch.testing.assert_close(total.double(), residual.double() + hidden.double() * mask, rtol=2**-7, atol=1e-2)
    gradient = torch.randn_like(total)
    total.backward(gradient)
    assert residual.grad is not None
    assert hidden.grad is not None
    assert torch.equal(residual.grad, gradient)
    torch.testing.assert_close(hidden.grad.double(), gradient.double() * mask, rtol=2**-7, atol=1e-6)


def attention(bias, probability, dtype=torch.float32, heads=slice(0, 4), rows=slice(0, 9), causal=False):
    torch.manual_seed(1)
    query, key, value = (torch.randn(3, 4, 9, 8, dtype=dtype, requires_grad=True) for _ in range(3))
    parts = query[:, heads, rows], key[:, heads], value[:, heads]
    place = {"first_head": heads.start, "first_row": rows.start}
    result = attend_with_dropout(*parts, bias, keys_of(), causal=causal, scale=0.3, probability=probability, **place)
    return result, (query, key, value)


def test_heads_and_queries_are_dropped_as_in_the_whole_model():
    whole, _ = attention(None, 0.5)
    part, _ = attention(None, 0.5, heads=slice(2, 4), rows=slice(4, 9))
    torch.testing.assert_close(whole[:, 2:, 4:], part, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("block", [512, 4])
@pytest.mark.parametrize("probability", [0.4, 0.0])
def test_attention_and_its_gradient(monkeypatch, probability, block, causal):
    """Beside the plain formula with the same mask, found by attending to one key at a time."""
    monkeypatch.setattr(kernel, "QUERY_BLOCK", block)
    bias = torch.randn(1, 4, 9, 9, dtype=torch.float32, requires_grad=True)
    result, inputs = attention(bias, probability, causal=causal)
    eye = torch.eye(9).expand(3, 4, 9, 9)
    zeros = torch.zeros(3, 4, 9, 9)
    place = {"first_head": 0, "first_row": 0}
    drawn = {"causal": False, "scale": 1.0, "probability": probability}
    mask = attend_with_dropout(zeros, zeros, eye, None, keys_of(), **drawn, **place) * 9
    dropped = (mask == 0).float().mean()
    assert 0.2 < dropped < 0.6 if probability else dropped == 0
    query, key, value = (x.detach().double().requires_grad_() for x in inputs)
    exact = bias.detach().double().requires_grad_()
    scores = query @ key.transpose(-1, -2) * 0.3 + exact
    if causal:
        scores = scores.masked_fill(torch.ones(9, 9).triu(1) > 0, -torch.inf)
    expected = (scores.softmax(-1) * mask.double()) @ value
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)
    direction = torch.randn_like(result)
    ours = torch.autograd.grad(result, (*inputs, bias), direction)
    theirs = torch.autograd.grad(expected, (query, key, value, exact), direction.double())
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


# Of n fair signs the sum of products with n others is normal with a deviation of root n, where the two do not depend on
# each other. The bounds are of 4.5 deviations, and there are few of them.


def correlation(one, other):
    return abs((one * other).sum().item()) / math.sqrt(one.numel())


def test_neighbouring_elements_rows_samples_layers_and_sites_do_not_correlate():
    signs = kept(keys_of(tuple(range(4))), 1024, 1024)
    for lag in (1, 2, 3, 4, 8, 64, 512):
        assert correlation(signs[..., lag:], signs[..., :-lag]) < 4.5, f"columns {lag} apart"
        assert correlation(signs[lag:], signs[:-lag]) < 4.5, f"rows {lag} apart"
    assert correlation(signs[:, 1:], signs[:, :-1]) < 4.5
    for other in (
        keys_of(tuple(range(4)), layer=4),
        keys_of(tuple(range(4)), site=Site.ATTENTION_OUTPUT),
        keys_of(tuple(range(4)), seed=6),
    ):
        assert correlation(signs, kept(other, 1024, 1024)) < 4.5


def test_heads_do_not_correlate():
    shape = (1, 4, 512, 512)
    zeros, eye = torch.zeros(shape), torch.eye(512).expand(shape)
    place = {"first_head": 0, "first_row": 0}
    weights = attend_with_dropout(
        zeros, zeros, eye, None, keys_of((1,)), causal=False, scale=1.0, probability=0.5, **place
    )
    signs = torch.where(weights > 0, 1.0, -1.0).double()
    assert correlation(signs[:, 1:], signs[:, :-1]) < 4.5
    assert correlation(signs[:, 2:], signs[:, :-2]) < 4.5


@pytest.mark.parametrize("axis", ["columns", "rows", "samples"])
def test_patterns_of_eight_neighbours_are_equally_likely(axis):
    """Chi-square over the 256 patterns, and over them where the elements differ little in number."""
    if axis == "samples":
        signs = kept(keys_of(tuple(range(8))), 512, 512).permute(0, 2, 1)
    else:
        signs = kept(keys_of((1,)), 2048, 2048)[:, 0]
        signs = signs if axis == "columns" else signs.T
    bits = (signs.reshape(-1, 8) > 0).long()
    counts = torch.bincount((bits * 2 ** torch.arange(8)).sum(-1), minlength=256).double()
    expected = counts.sum() / 256
    chi = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(chi - 255) < 4.5 * math.sqrt(2 * 255)


def test_rates_of_rows_and_columns_scatter_as_they_should():
    """A mask may be right on the whole and have rows or columns of its own rate."""
    signs = kept(keys_of((7,)), 2048, 2048, 0.1)[:, 0]
    variance = 4 * 0.1 * 0.9
    for dim in (0, 1):
        means = signs.mean(dim) - 0.8
        chi = (means**2).sum().item() * 2048 / variance
        assert abs(chi - 2048) < 4.5 * math.sqrt(2 * 2048)


def test_uniforms_are_uniform_and_depend_on_sample_and_position_alone():
    keys = keys_of(tuple(range(64)), layer=-1, site=Site.REPLACEMENT)
    drawn = uniforms(keys, 2048)
    counts = torch.histc(drawn, 64, 0.0, 1.0)
    expected = drawn.numel() / 64
    assert abs(((counts - expected) ** 2 / expected).sum().item() - 63) < 4.5 * math.sqrt(2 * 63)
    assert torch.equal(uniforms(keys[5:6], 100)[:, 0], drawn[:100, 5])


def test_which_models_draw():
    assert not draws_masks(MODEL)
    assert draws_masks(FAMILIES["gpt"](layers=1, hidden=8, heads=1, attention_dropout=0.1))
    assert draws_masks(FAMILIES["electra"](layers=1, hidden=8, heads=1))


def test_recomputation_gives_the_same_gradients_to_the_bit():
    """It hands what was saved out once only."""
    bias, found = torch.randn(1, 4, 9, 9, requires_grad=True), []
    for recompute in (False, True):
        torch.manual_seed(1)
        inputs = [torch.randn(3, 4, 9, 8, requires_grad=True) for _ in range(3)]

        def attend(query, key, value, bias=bias):
            place = {"first_head": 0, "first_row": 0}
            mixed = attend_with_dropout(
                query, key, value, bias, keys_of(), causal=True, scale=0.3, probability=0.4, **place
            )
            flat = mixed.permute(2, 0, 1, 3).flatten(2)
            return dropout_add(flat, flat, 0.3, keys_of(layer=1), **WHOLE)

        result = checkpoint(attend, *inputs, use_reentrant=False) if recompute else attend(*inputs)
        found.append([result, *torch.autograd.grad(result.pow(2).sum(), [*inputs, bias])])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("probability", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_query_whose_bias_hides_all_keys_gives_zeros(dtype, probability):
    bias = torch.zeros(3, 1, 9, 9, dtype=dtype)
    bias[0, :, 2], bias[1, :, :, 3:], bias[2] = -torch.inf, -torch.inf, -torch.inf
    result, inputs = attention(bias, probability, dtype)
    assert not result[0, :, 2].any()
    assert not result[2].any()
    assert result[0, :, [0, 1, 3]].any(dim=-1).all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(result.float().square().sum(), inputs))


@pytest.mark.parametrize("probability", [0.0, 0.4])
def test_compiled_code_is_told_how_results_lie_in_memory(probability):
    def made(device: str) -> list[torch.Tensor]:
        query, key, value = (torch.randn(9, 3, 4, 8, device=device).permute(1, 2, 0, 3) for _ in range(3))
        inputs = query, key, value, None, keys_of().to(device), None, None
        drawn = 0, 0, True, 0.3, probability
        out, lse = torch.ops.dist_plm.attention(*inputs, *drawn)
        gradients = torch.ops.dist_plm.attention_backward(out, *inputs, out, lse, False, *drawn)
        return [out, lse, *gradients]

    for told, found in zip(made("meta"), made("cpu"), strict=True):
        assert (told.shape, told.stride(), told.dtype) == (found.shape, found.stride(), found.dtype)
