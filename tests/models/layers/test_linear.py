"""Adapters drop a share of what they read, and nothing of what the base layer reads."""

import pytest
import torch

from dist_plm.distributed.groups import alone
from dist_plm.models.layers.dropout import Site, dropout_add, key_table, keys_of_layer
from dist_plm.models.layers.linear import project
from tests.parts import model_of
from tests.ranks.training import configure

ALL = ("query", "key", "value", "output", "up", "down")
SITES = {
    "attention.qkv": Site.ADAPTER_QKV,
    "attention.output": Site.ADAPTER_OUTPUT,
    "mlp.up": Site.ADAPTER_UP,
    "mlp.down": Site.ADAPTER_DOWN,
}


@pytest.mark.parametrize("name", SITES)
def test_an_adapter_reads_what_is_left(name):
    """As peft's do: B A of the dropped input, scaled, beside the layer's own output."""
    config = configure(1, model__lora={"rank": 4, "targets": ALL, "dropout": 0.25})
    (chunk,), _ = model_of(config, alone(), torch.device("cpu"))
    layer = chunk.get_submodule(f"layers.2.{name}")
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(16, 3, layer.lora_a.shape[1])
    keys = keys_of_layer(key_table(config.model, torch.arange(3), seed=1), 2)
    dropped = dropout_add(x, None, 0.25, keys[SITES[name]], slice_index=0, num_slices=1)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    layer.eval()
    whole, partly = project(layer, x, None), project(layer, dropped, None)
    base = torch.nn.functional.linear(x, layer.weight, layer.bias)
    of_dropped = torch.nn.functional.linear(dropped, layer.weight, layer.bias)
    layer.train()
    torch.testing.assert_close(project(layer, x, keys) - base, partly - of_dropped, rtol=1e-4, atol=1e-5)
    assert float((project(layer, x, keys) - whole).detach().abs().max()) > 0.01
