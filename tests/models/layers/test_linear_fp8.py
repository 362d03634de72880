"""precision=fp8 asks Megatron-core for Transformer Engine's layers, as far as that shows where it is not installed."""

import importlib.util

import pytest
import torch

from tests.parts import model_context_of, model_of
from tests.ranks.test_encoder_parts import groups_of
from tests.ranks.training import configure

without_engine = pytest.mark.skipif(
    importlib.util.find_spec("transformer_engine") is not None, reason="Transformer Engine is installed"
)


def shape(world) -> tuple:
    config = configure(1, precision__name="fp8", cluster__device="auto")
    shape = model_context_of(config, groups_of(world, config), torch.device("cpu"))
    return shape.dtype, shape.megatron.fp8, shape.megatron.fp8_recipe, shape.megatron.bf16


def test_weights_are_of_16_bits_and_products_of_8(ranks):
    assert ranks.run(1, shape) == [(torch.bfloat16, "hybrid", "tensorwise", True)]


def build(world) -> str:
    config = configure(1, precision__name="fp8", cluster__device="auto")
    with pytest.raises(ImportError) as error:
        model_of(config, groups_of(world, config), torch.device("cpu"))
    return str(error.value)


@without_engine
def test_layers_are_transformer_engines(ranks):
    (message,) = ranks.run(1, build)
    assert message == "No module named 'transformer_engine'"
