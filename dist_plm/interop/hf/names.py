"""Which tensor of Hugging Face's checkpoint each logical tensor is, by family.

Tensors that Hugging Face ties to another (the decoder of BERT, `lm_head` of GPT-2) are left out, as they are stored once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from dist_plm.interop.hf.config import Half
from dist_plm.spec.derived import generator_of
from dist_plm.spec.schema import ModelConfig


@dataclass(frozen=True, slots=True)
class HFTensor:
    """Args:
    name: canonical name of the logical tensor.
    hf: name in Hugging Face's state dict.
    transposed: Hugging Face stores [in, out] (GPT-2's Conv1D).
    part: (index, count) where Hugging Face fuses `count` tensors along their outputs.
    """

    name: str
    hf: str
    transposed: bool = False
    part: tuple[int, int] | None = None

    def logical(self, stored: Tensor) -> Tensor:
        """The logical tensor, as a view of what Hugging Face stores."""
        tensor = stored.T if self.transposed else stored
        return tensor if self.part is None else tensor.chunk(self.part[1])[self.part[0]]


def hf_tensors(model: ModelConfig, half: Half | None = None) -> list[HFTensor]:
    """All logical tensors of a model, or of one half of ELECTRA, whose halves Hugging Face stores as models of their own:
    what they share is then in both.

    Classes: GPT2LMHeadModel or, with rotary positions, LlamaForCausalLM; BertForPreTraining (BertForMaskedLM without a pair
    head); RobertaForMaskedLM; ElectraForMaskedLM and ElectraForPreTraining; T5ForConditionalGeneration.

    Args:
        model: finalised. Hugging Face has no class for pre-norm encoders or the original Transformer.
        half: of electra alone, and needed there.
    """
    if model.family == "gpt":
        return list(_llama(model) if model.position == "rotary" else _gpt2(model))
    if model.family == "electra":
        assert half is not None
        return list(_electra(model, half))
    return list({"bert": _bert, "roberta": _roberta, "t5": _t5}[model.family](model))


def _affine(name: str, hf: str) -> Iterator[HFTensor]:
    for kind in ("weight", "bias"):
        yield HFTensor(f"{name}.{kind}", f"{hf}.{kind}")


def _bert(model: ModelConfig) -> Iterator[HFTensor]:
    yield from _bert_embeddings(model, "bert.embeddings")
    yield from _bert_layers(model.layers, "layers", "bert.encoder.layer")
    yield from _affine("transform.dense", "cls.predictions.transform.dense")
    yield from _affine("transform.norm", "cls.predictions.transform.LayerNorm")
    yield HFTensor("output.bias", "cls.predictions.bias")
    if model.pair_head:
        yield from _affine("pair.pooler", "bert.pooler.dense")
        yield from _affine("pair.classifier", "cls.seq_relationship")


def _roberta(model: ModelConfig) -> Iterator[HFTensor]:
    yield from _bert_embeddings(model, "roberta.embeddings")
    yield from _bert_layers(model.layers, "layers", "roberta.encoder.layer")
    yield from _affine("transform.dense", "lm_head.dense")
    yield from _affine("transform.norm", "lm_head.layer_norm")
    yield HFTensor("output.bias", "lm_head.bias")


def _electra(model: ModelConfig, half: Half) -> Iterator[HFTensor]:
    network = generator_of(model) if half == "generator" else model
    yield from _bert_embeddings(model, "electra.embeddings")
    yield from _bert_layers(network.layers, f"{half}.layers", "electra.encoder.layer")
    if network.hidden != model.embedding_size:
        yield from _affine(f"{half}.project", "electra.embeddings_project")
    if half == "generator":
        yield from _affine("transform.dense", "generator_predictions.dense")
        yield from _affine("transform.norm", "generator_predictions.LayerNorm")
        yield HFTensor("output.bias", "generator_lm_head.bias")
    else:
        yield from _affine("detector.dense", "discriminator_predictions.dense")
        yield from _affine("detector.classifier", "discriminator_predictions.dense_prediction")


def _bert_embeddings(model: ModelConfig, hf: str) -> Iterator[HFTensor]:
    yield HFTensor("embedding.word.weight", f"{hf}.word_embeddings.weight")
    yield HFTensor("embedding.position.weight", f"{hf}.position_embeddings.weight")
    if model.segments:
        yield HFTensor("embedding.segment.weight", f"{hf}.token_type_embeddings.weight")
    yield from _affine("embedding.norm", f"{hf}.LayerNorm")


def _bert_layers(layers: int, ours: str, theirs: str) -> Iterator[HFTensor]:
    for i in range(layers):
        name, hf = f"{ours}.{i}", f"{theirs}.{i}"
        for kind in ("query", "key", "value"):
            yield from _affine(f"{name}.attention.{kind}", f"{hf}.attention.self.{kind}")
        yield from _affine(f"{name}.attention.output", f"{hf}.attention.output.dense")
        yield from _affine(f"{name}.attention_norm", f"{hf}.attention.output.LayerNorm")
        yield from _affine(f"{name}.mlp.up", f"{hf}.intermediate.dense")
        yield from _affine(f"{name}.mlp.down", f"{hf}.output.dense")
        yield from _affine(f"{name}.mlp_norm", f"{hf}.output.LayerNorm")


def _gpt2(model: ModelConfig) -> Iterator[HFTensor]:
    yield HFTensor("embedding.word.weight", "transformer.wte.weight")
    yield HFTensor("embedding.position.weight", "transformer.wpe.weight")
    for i in range(model.layers):
        name, hf = f"layers.{i}", f"transformer.h.{i}"
        yield from _affine(f"{name}.attention_norm", f"{hf}.ln_1")
        yield from _affine(f"{name}.mlp_norm", f"{hf}.ln_2")
        for index, kind in enumerate(("query", "key", "value")):
            yield from _conv1d(f"{name}.attention.{kind}", f"{hf}.attn.c_attn", (index, 3))
        yield from _conv1d(f"{name}.attention.output", f"{hf}.attn.c_proj")
        yield from _conv1d(f"{name}.mlp.up", f"{hf}.mlp.c_fc")
        yield from _conv1d(f"{name}.mlp.down", f"{hf}.mlp.c_proj")
    yield from _affine("final_norm", "transformer.ln_f")
    if not model.tied_embeddings:
        yield HFTensor("output.weight", "lm_head.weight")


def _conv1d(name: str, hf: str, part: tuple[int, int] | None = None) -> Iterator[HFTensor]:
    yield HFTensor(f"{name}.weight", f"{hf}.weight", True, part)
    yield HFTensor(f"{name}.bias", f"{hf}.bias", False, part)


def _llama(model: ModelConfig) -> Iterator[HFTensor]:
    """Rotary positions are in the half-split layout on both sides."""
    yield HFTensor("embedding.word.weight", "model.embed_tokens.weight")
    for i in range(model.layers):
        name, hf = f"layers.{i}", f"model.layers.{i}"
        yield HFTensor(f"{name}.attention_norm.weight", f"{hf}.input_layernorm.weight")
        yield HFTensor(f"{name}.mlp_norm.weight", f"{hf}.post_attention_layernorm.weight")
        for kind, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
            yield HFTensor(f"{name}.attention.{kind}.weight", f"{hf}.self_attn.{letter}_proj.weight")
        for kind in ("gate", "up", "down"):
            yield HFTensor(f"{name}.mlp.{kind}.weight", f"{hf}.mlp.{kind}_proj.weight")
    yield HFTensor("final_norm.weight", "model.norm.weight")
    if not model.tied_embeddings:
        yield HFTensor("output.weight", "lm_head.weight")


def _t5(model: ModelConfig) -> Iterator[HFTensor]:
    yield HFTensor("embedding.word.weight", "shared.weight")
    assert model.decoder_layers is not None
    for stack, layers in (("encoder", model.layers), ("decoder", model.decoder_layers)):
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        yield HFTensor(f"{stack}.relative.weight", bias)
        for i in range(layers):
            yield from _t5_layer(model, f"{stack}.layers.{i}", f"{stack}.block.{i}.layer", cross=stack == "decoder")
        yield HFTensor(f"{stack}.final_norm.weight", f"{stack}.final_layer_norm.weight")
    if not model.tied_embeddings:
        yield HFTensor("output.weight", "lm_head.weight")


def _t5_layer(model: ModelConfig, name: str, hf: str, *, cross: bool) -> Iterator[HFTensor]:
    halves = [("attention", "0", "SelfAttention")] + ([("cross", "1", "EncDecAttention")] if cross else [])
    for half, number, theirs in halves:
        yield HFTensor(f"{name}.{half}_norm.weight", f"{hf}.{number}.layer_norm.weight")
        for kind, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "o")):
            yield HFTensor(f"{name}.{half}.{kind}.weight", f"{hf}.{number}.{theirs}.{letter}.weight")
    number = "2" if cross else "1"
    yield HFTensor(f"{name}.mlp_norm.weight", f"{hf}.{number}.layer_norm.weight")
    gated = model.activation == "geglu"
    for kind, theirs in (("gate", "wi_0"), ("up", "wi_1")) if gated else (("up", "wi"),):
        yield HFTensor(f"{name}.mlp.{kind}.weight", f"{hf}.{number}.DenseReluDense.{theirs}.weight")
    yield HFTensor(f"{name}.mlp.down.weight", f"{hf}.{number}.DenseReluDense.wo.weight")
