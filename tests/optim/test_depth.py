"""Depths by name, for every shape of network: one stack, two side by side, one upon the other."""

import pytest

from dist_plm.optim.depth import Depths
from dist_plm.spec.derived import derive
from dist_plm.spec.families.tensors import head_of, tensors_of
from dist_plm.spec.schema import ModelConfig
from tests.spec.make import pretrain


def model_of(family: str, objective: str, **changes) -> ModelConfig:
    settings = {"family": family, "layers": 4, "hidden": 8, "heads": 2, **changes}
    config = pretrain(**{f"model__{name}": value for name, value in settings.items()}, objective__name=objective)
    return derive(config, world_size=1, vocab_size=10).model


GPT = model_of("gpt", "causal")
BERT = model_of("bert", "mlm_nsp")
ELECTRA = model_of("electra", "rtd", embedding_size=4, generator_layers=3)
T5 = model_of("t5", "span", decoder_layers=2, position="relative")
UNTIED = {"tied_embeddings": False}


@pytest.mark.parametrize(
    ("model", "name", "depth"),
    [
        (GPT, "embedding.word.weight", 0),
        (GPT, "module.module.layers.0.mlp.up.weight", 1),
        (GPT, "layers.3.attention.qkv.bias", 4),
        (GPT, "final_norm.weight", 5),
        (GPT, "output.weight", 5),
        (BERT, "pair.pooler.weight", 5),
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
    layers = [tensor.depth for tensor in tensors_of(model) if ".mlp." in f".{tensor.name}"]
    assert max(layers) == Depths.of(model).layers
    assert max(tensor.depth for tensor in tensors_of(model)) == max(layers) + 1


@pytest.mark.parametrize(
    "model",
    [
        GPT,
        model_of("gpt", "causal", **UNTIED),
        model_of("gpt", "causal", lora={"rank": 2}, **UNTIED),
        BERT,
        model_of("roberta", "mlm", **UNTIED),
        ELECTRA,
        model_of("t5", "span", decoder_layers=2, position="relative", **UNTIED),
    ],
)
def test_head_is_what_lies_above_the_layers(model):
    """Not what layers call by the names of its modules, as the projection after attention."""
    depths, names = Depths.of(model), [tensor.name for tensor in tensors_of(model)]
    for wrapper in ("", "module.module.", "0."):
        assert {name for name in names if depths.is_of_head(f"{wrapper}{name}")} == head_of(model)
