"""Counts against published ones, the papers' closed forms, and a real torch model built matrix by matrix."""

import dataclasses
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from dist_plm.spec.families.gpt import GPTConfig
from dist_plm.spec.families.lora import LoraConfig
from dist_plm.spec.families.t5 import T5Config
from dist_plm.spec.families.tensors import tensors_of
from dist_plm.spec.flops import flops_per_step, flops_per_token, num_parameters, utilisation
from dist_plm.spec.freezing import frozen_tensors
from dist_plm.spec.objectives.base import SampleRows
from dist_plm.spec.rules.finalize import finalize
from tests.spec.make import pretrain


def gpt(layers, hidden, heads, *, vocab=50257, positions=1024) -> GPTConfig:
    return GPTConfig(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_size=hidden // heads,
        ffn=4 * hidden,
        vocab_size=vocab,
        max_positions=positions,
    )


def llama(layers, hidden, heads, kv_heads, ffn, vocab) -> GPTConfig:
    return GPTConfig(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_size=hidden // heads,
        ffn=ffn,
        vocab_size=vocab,
        max_positions=4096,
        position="rotary",
        activation="swiglu",
        norm="rmsnorm",
        bias=False,
        tied_embeddings=False,
    )


GPT2_SMALL = gpt(12, 768, 12)
GPT3_175B = gpt(96, 12288, 96, positions=2048)
LLAMA3_8B = llama(32, 4096, 32, 8, 14336, 128256)


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (GPT2_SMALL, 124_439_808),
        (gpt(24, 1024, 16), 354_823_168),
        (gpt(48, 1600, 25), 1_557_611_200),
        (llama(32, 4096, 32, 32, 11008, 32000), 6_738_415_616),
        (LLAMA3_8B, 8_030_261_248),
    ],
    ids=["gpt2_small", "gpt2_medium", "gpt2_xl", "llama2_7b", "llama3_8b"],
)
def test_parameters_are_the_published_ones(model, published):
    assert num_parameters(model) == published


def test_gpt3_is_175_billion():
    assert num_parameters(GPT3_175B) == pytest.approx(174.6e9, rel=1e-3)


def test_a_padded_vocabulary_adds_its_rows():
    assert num_parameters(GPT2_SMALL, vocab_size=50304) - num_parameters(GPT2_SMALL) == (50304 - 50257) * 768
    assert num_parameters(LLAMA3_8B, vocab_size=128257) - num_parameters(LLAMA3_8B) == 2 * 4096


def test_flops_are_equation_3_of_megatron_without_recomputation():
    """72 B s l h^2 (1 + s/6h + V/12lh): arXiv 2104.04473, equation 3, at three passes for its four."""
    for model, samples, sequence in [(GPT2_SMALL, 8, 1024), (GPT3_175B, 1536, 2048)]:
        h, layers, vocab = model.hidden, model.layers, 50257
        paper = 72 * samples * sequence * layers * h**2 * (1 + sequence / (6 * h) + vocab / (12 * layers * h))
        assert flops_per_step(model, sequence, samples) == pytest.approx(paper, rel=1e-12)


def test_flops_are_6n_plus_12lhqt_of_palm():
    """arXiv 2204.02311, appendix B: 6N + 12LHQT, N without positions, biases and norms, which multiply nothing."""
    model = dataclasses.replace(GPT2_SMALL, position="none", bias=False)
    norms = (2 * 12 + 1) * 2 * 768
    paper = 6 * (num_parameters(model) - norms) + 12 * 12 * 12 * 64 * 1024
    assert flops_per_token(model, 1024) == paper


@st.composite
def small_models(draw):
    kv_heads = draw(st.integers(1, 3))
    return GPTConfig(
        layers=draw(st.integers(1, 2)),
        hidden=draw(st.integers(4, 16)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_size=draw(st.integers(2, 6)),
        ffn=draw(st.integers(3, 20)),
        vocab_size=draw(st.integers(5, 20)),
        max_positions=16,
        position=draw(st.sampled_from(["learned", "rotary"])),
        activation=draw(st.sampled_from(["gelu", "swiglu"])),
        norm=draw(st.sampled_from(["layernorm", "rmsnorm"])),
        bias=draw(st.booleans()),
        tied_embeddings=draw(st.booleans()),
    )


class Decoder(torch.nn.Module):
    """The plainest decoder with the shapes of a configuration; only its sizes and matrix products matter here."""

    def __init__(self, model: GPTConfig) -> None:
        super().__init__()
        self.model = model
        width, kv_width = model.heads * model.head_size, model.kv_heads * model.head_size
        norm = torch.nn.LayerNorm if model.norm == "layernorm" else torch.nn.RMSNorm
        self.words = torch.nn.Embedding(model.vocab_size, model.hidden)
        if model.position == "learned":
            self.positions = torch.nn.Embedding(model.max_positions, model.hidden)
        gates = 2 if model.activation == "swiglu" else 1
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleDict(
                {
                    "norm_1": norm(model.hidden),
                    "qkv": torch.nn.Linear(model.hidden, width + 2 * kv_width, bias=model.bias),
                    "out": torch.nn.Linear(width, model.hidden, bias=model.bias),
                    "norm_2": norm(model.hidden),
                    "up": torch.nn.Linear(model.hidden, gates * model.ffn, bias=model.bias),
                    "down": torch.nn.Linear(model.ffn, model.hidden, bias=model.bias),
                }
            )
            for _ in range(model.layers)
        )
        self.norm = norm(model.hidden)
        self.head = torch.nn.Linear(model.hidden, model.vocab_size, bias=False)
        if model.tied_embeddings:
            self.head.weight = self.words.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        model, (batch, length) = self.model, tokens.shape
        width, kv_width = model.heads * model.head_size, model.kv_heads * model.head_size
        hidden = self.words(tokens)
        for layer in self.layers:
            query, key, value = layer["qkv"](layer["norm_1"](hidden)).split([width, kv_width, kv_width], dim=-1)
            query = query.view(batch, length, model.heads, -1).transpose(1, 2)
            groups = model.heads // model.kv_heads
            key, value = (
                x.view(batch, length, model.kv_heads, -1).transpose(1, 2).repeat_interleave(groups, dim=1)
                for x in (key, value)
            )
            mixed = (query @ key.transpose(2, 3)).softmax(-1) @ value
            hidden = hidden + layer["out"](mixed.transpose(1, 2).reshape(batch, length, width))
            hidden = hidden + layer["down"](layer["up"](layer["norm_2"](hidden))[..., : model.ffn])
        return self.head(self.norm(hidden))


@settings(deadline=None)
@given(small_models(), st.integers(1, 3), st.integers(2, 16))
def test_counts_are_those_of_a_real_model(model, samples, sequence):
    decoder = Decoder(model)
    assert num_parameters(model) == sum(parameter.numel() for parameter in decoder.parameters())
    counter = FlopCounterMode(display=False)
    with counter:
        decoder(torch.zeros(samples, sequence, dtype=torch.long))
    assert flops_per_step(model, sequence, samples) == 3 * counter.get_total_flops()


def parameters_of(decoder: Decoder) -> dict[str, list[torch.nn.Parameter]]:
    """The parameters of the plain decoder by what canonical names begin with; query, key and value are one there."""
    found = {"embedding.word.": list(decoder.words.parameters()), "final_norm.": list(decoder.norm.parameters())}
    if not decoder.model.tied_embeddings:
        found["output."] = list(decoder.head.parameters())
    if decoder.model.position == "learned":
        found["embedding.position."] = list(decoder.positions.parameters())
    for number, layer in enumerate(decoder.layers):
        names = {
            "attention_norm.": "norm_1",
            "attention.[qkv].*": "qkv",
            "attention.output.": "out",
            "mlp_norm.": "norm_2",
            "mlp.(up|gate).": "up",
            "mlp.down.": "down",
        }
        found |= {f"layers.{number}.{name}": list(layer[module].parameters()) for name, module in names.items()}
    return found


@settings(deadline=None)
@given(small_models(), st.integers(2, 8), st.data())
def test_of_frozen_weights_the_gradients_that_there_are_count(model, sequence, data):
    decoder = Decoder(model)
    parts = parameters_of(decoder)
    trained = data.draw(st.sets(st.sampled_from(list(parts)), min_size=1))
    names = [tensor.name for tensor in tensors_of(model)]
    frozen = {name for name in names if not any(re.match(part, name) for part in trained)}
    for part, parameters in parts.items():
        for parameter in parameters:
            parameter.requires_grad_(part in trained)
    with FlopCounterMode(display=False) as counter:
        decoder(torch.zeros(1, sequence, dtype=torch.long)).sum().backward()
    assert flops_per_step(model, sequence, 1, frozen=frozen) == counter.get_total_flops()


def counts(model, *freeze: str, **options) -> tuple[int, int]:
    """FLOPs of a step with and without frozen parts."""
    frozen = frozen_tensors(model, freeze)
    return flops_per_step(model, 64, 1, frozen=frozen, **options), flops_per_step(model, 64, 1, **options)


def test_adapters_of_all_layers_leave_the_gradients_of_states_alone():
    """Those of weights go but for the adapters' own, and what the first layer's queries, keys and values read has none."""
    model = dataclasses.replace(GPT2_SMALL, lora=LoraConfig(rank=4))
    part, whole = counts(model)
    tensors = tensors_of(model)
    base = sum(one.numel for one in tensors if one.multiplies and "lora" not in one.name)
    first = 3 * model.hidden**2 + 2 * 4 * model.hidden  # query, key and value, and A of query and value
    assert whole - part == 2 * 64 * (base + first)


def test_a_frozen_encoder_has_no_backward_pass_and_its_states_no_gradient():
    sizes = {"layers": 2, "decoder_layers": 2, "hidden": 32, "heads": 2, "kv_heads": 2, "head_size": 16, "ffn": 64}
    model = T5Config(**sizes, vocab_size=100, position="relative", max_positions=512, tied_embeddings=False)
    part, whole = counts(model, "embeddings", "encoder", target_length=8)
    layer = 4 * 32 * 32 + 2 * 32 * 64
    # Both halves of the encoder's backward pass, and what keys and values of the decoder's two layers read of it.
    encoder = 2 * (2 * 2 * 64 * layer + 2 * 4 * 64 * 64 * 32)
    assert whole - part == encoder + 2 * 2 * 64 * 2 * 32 * 32


def test_the_halves_of_electra_depend_on_their_own_alone():
    sizes = {"model__layers": 2, "model__hidden": 32, "model__heads": 2, "model__generator_hidden": 16}
    config = pretrain(model__family="electra", objective__name="rtd", **sizes)
    model = finalize(config, world_size=1, vocab_size=100).model
    whole = counts(model)[1]
    generator, discriminator = ("generator", "transform", "output"), ("discriminator", "detector")
    lost = {names: whole - counts(model, "embeddings", *names)[0] for names in (generator, discriminator)}
    none = 2 * whole // 3  # all of both backward passes, but for what the first products of the other read
    assert sum(lost.values()) > none
    assert all(0 < one < none for one in lost.values())


def test_of_several_texts_of_a_row_the_encoder_reads_it_once():
    sizes = {"layers": 2, "decoder_layers": 2, "hidden": 32, "heads": 2, "kv_heads": 2, "head_size": 16, "ffn": 64}
    model = T5Config(**sizes, vocab_size=100, position="relative", max_positions=512)
    of_texts = {n: flops_per_step(model, 64, 1, target_length=8, rows=SampleRows(written=n)) for n in (1, 2, 4)}
    assert of_texts[4] - of_texts[2] == 2 * (of_texts[2] - of_texts[1])
    # Query and output of both attentions, key and value of its own, MLP and vocabulary, for each token; scores of each pair.
    products = 2 * 8 * (2 * (6 * 32 * 32 + 2 * 32 * 64) + 32 * 100)
    assert of_texts[2] - of_texts[1] == 3 * (products + 2 * 4 * 32 * 8 * (8 + 64))
    assert flops_per_step(GPT2_SMALL, 64, 1, rows=SampleRows(read=3)) == flops_per_step(GPT2_SMALL, 64, 3)


def test_an_unresolved_model_is_our_mistake():
    with pytest.raises(AssertionError, match=r"model\.ffn"):
        num_parameters(dataclasses.replace(GPT2_SMALL, ffn=None))


def test_utilisation():
    assert utilisation(3e12, 2.0, 3.0) == pytest.approx(0.5)
    assert utilisation(3e12, 2.0, None) is None
    assert utilisation(3e12, 0.0, 3.0) is None
