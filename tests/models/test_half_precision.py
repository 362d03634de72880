"""Norms and softmax add up in fp32 where weights and activations are of 16 bits."""

import pytest
import torch

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
