"""Depths by name, for every shape of network: one stack, two side by side, one upon the other."""

from dataclasses import replace

import pytest

from dist_plm.optim.depth import Depths
from dist_plm.spec.schema import ModelConfig

GPT = ModelConfig(family="gpt", layers=4, hidden=8, heads=2)
ELECTRA = replace(GPT, family="electra", generator_layers=3)
T5 = replace(GPT, family="t5", decoder_layers=2)


@pytest.mark.parametrize(
    ("model", "name", "depth"),
    [
        (GPT, "embedding.word.weight", 0),
        (GPT, "module.module.layers.0.mlp.up.weight", 1),
        (GPT, "layers.3.attention.qkv.bias", 4),
        (GPT, "final_norm.weight", 5),
        (GPT, "output.weight", 5),
        (replace(GPT, family="bert"), "pair.pooler.weight", 5),
        (ELECTRA, "embedding.norm.weight", 0),
        (ELECTRA, "module.generator.project.weight", 1),
        (ELECTRA, "generator.layers.0.mlp.up.weight", 2),
        (ELECTRA, "generator.layers.2.mlp.up.weight", 4),
        (ELECTRA, "transform.dense.weight", 5),
        (ELECTRA, "discriminator.project.weight", 0),
        (ELECTRA, "discriminator.layers.0.mlp.up.weight", 1),
        (ELECTRA, "discriminator.layers.3.mlp.up.weight", 4),
        (ELECTRA, "discriminator.final_norm.weight", 5),
        (ELECTRA, "detector.dense.weight", 5),
        (T5, "embedding.word.weight", 0),
        (T5, "module.encoder.relative.weight", 0),
        (T5, "encoder.layers.3.mlp.up.weight", 4),
        (T5, "encoder.final_norm.weight", 5),
        (T5, "decoder.relative.weight", 4),
        (T5, "decoder.layers.0.cross.kv.weight", 5),
        (T5, "decoder.layers.1.mlp.up.weight", 6),
        (T5, "decoder.final_norm.weight", 7),
        (T5, "output.weight", 7),
    ],
)
def test_depth_of_a_parameter(model, name, depth):
    assert Depths.of(model).of_parameter(name) == depth


@pytest.mark.parametrize("model", [GPT, ELECTRA, T5])
def test_no_depth_lies_above_the_head(model):
    depths = Depths.of(model)
    assert max(layers.stop for layers in depths.stacks.values()) == depths.layers
