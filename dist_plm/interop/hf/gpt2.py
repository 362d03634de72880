"""Translates GPT-2."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dist_plm.interop.hf.base import (
    ACTIVATION_NAMES,
    ACTIVATIONS,
    HEADS,
    Half,
    HFModel,
    HFTensor,
    Settings,
    affine,
    count_layers,
)
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.families.gpt import GPTConfig

if TYPE_CHECKING:
    from dist_plm.interop.hf.checkpoint_tokenizer import CheckpointTokenizer


class HFGPT2(HFModel):
    """Translates GPT2LMHeadModel, GPT2Model and GPT2ForSequenceClassification."""

    model_type = "gpt2"
    family = "gpt"
    classes: ClassVar = {"GPT2LMHeadModel": HEADS, "GPT2Model": ()}
    task_classes: ClassVar = {"GPT2ForSequenceClassification": "sequence"}
    head_names = ("lm_head.", "score.")
    task_left_out = re.compile(r"^lm_head\.")
    prefix = "transformer."
    copies: ClassVar = {"lm_head.weight": "transformer.wte.weight"}
    idle = re.compile(r"(^|\.)position_ids$|\.attn\.(masked_)?bias$")
    first_names = ("gpt2", "transformer", "wte")
    word = "transformer.wte.weight"

    def stores(self, model: ModelConfig) -> bool:
        return model.family == self.family and model.position != "rotary"

    def read_settings(self, settings: Settings) -> dict[str, Any]:
        s = settings
        s.must_be("scale_attn_weights", True)
        s.must_be("scale_attn_by_inverse_layer_idx", False)
        s.must_be("add_cross_attention", False)
        hidden, heads = s["n_embd"], s["n_head"]
        return {
            "family": self.family,
            "layers": s["n_layer"],
            "hidden": hidden,
            "heads": heads,
            "kv_heads": heads,
            "head_size": hidden // heads,
            "ffn": s.get("n_inner", 4 * hidden),
            "vocab_size": s["vocab_size"],
            "max_positions": s["n_positions"],
            "activation": s.one_of("activation_function", ACTIVATIONS, "gelu_new"),
            "norm_eps": s.get("layer_norm_epsilon", 1e-5),
            "tied_embeddings": s.get("tie_word_embeddings", True),
            "hidden_dropout": s.get("resid_pdrop", 0.1),
            "attention_dropout": s.get("attn_pdrop", 0.1),
            "init_std": s.get("initializer_range", 0.02),
        }

    def write_settings(self, model: ModelConfig) -> dict[str, Any]:
        return {
            "model_type": self.model_type,
            "vocab_size": model.vocab_size,
            "n_positions": model.max_positions,
            "n_embd": model.hidden,
            "n_layer": model.layers,
            "n_head": model.heads,
            "n_inner": None if model.ffn == 4 * model.hidden else model.ffn,
            "activation_function": ACTIVATION_NAMES.get(model.activation, "gelu_new"),
            "resid_pdrop": model.hidden_dropout,
            "embd_pdrop": model.hidden_dropout,
            "attn_pdrop": model.attention_dropout,
            "layer_norm_epsilon": model.norm_eps,
            "initializer_range": model.init_std,
            "tie_word_embeddings": model.tied_embeddings,
        }

    def model_from_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
        return GPTConfig(
            layers=count_layers(shapes, "transformer.h"),
            hidden=shapes["transformer.wte.weight"][1],
            heads=1,
            position="learned",
            tied_embeddings="lm_head.weight" not in shapes,
        )

    def tensors(self, model: ModelConfig, half: Half | None = None) -> Iterator[HFTensor]:
        yield HFTensor("embedding.word.weight", "transformer.wte.weight")
        yield HFTensor("embedding.position.weight", "transformer.wpe.weight")
        for i in range(model.layers):
            name, hf = f"layers.{i}", f"transformer.h.{i}"
            yield from affine(f"{name}.attention_norm", f"{hf}.ln_1")
            yield from affine(f"{name}.mlp_norm", f"{hf}.ln_2")
            for index, kind in enumerate(("query", "key", "value")):
                yield from _conv1d(f"{name}.attention.{kind}", f"{hf}.attn.c_attn", (index, 3))
            yield from _conv1d(f"{name}.attention.output", f"{hf}.attn.c_proj")
            yield from _conv1d(f"{name}.mlp.up", f"{hf}.mlp.c_fc")
            yield from _conv1d(f"{name}.mlp.down", f"{hf}.mlp.c_proj")
        yield from affine("final_norm", "transformer.ln_f")
        if not model.predicts_tokens:
            yield HFTensor("head.output.weight", "score.weight")
        elif not model.tied_embeddings:
            yield HFTensor("output.weight", "lm_head.weight")

    def class_of(self, tensors: Collection[str], half: Half | None) -> str:
        return "GPT2LMHeadModel"

    def token_numbers(self, tokens: "CheckpointTokenizer") -> dict[str, int | None]:
        return causal_token_numbers(tokens)


def causal_token_numbers(tokens: "CheckpointTokenizer") -> dict[str, int | None]:
    """Gives the tokens of models that have none for the beginning of a text but what ends the one before."""
    pad = None if tokens.special is None else tokens.special.pad
    return {"bos_token_id": tokens.end, "eos_token_id": tokens.end, "pad_token_id": pad}


def _conv1d(name: str, hf: str, part: tuple[int, int] | None = None) -> Iterator[HFTensor]:
    yield HFTensor(f"{name}.weight", f"{hf}.weight", True, part)
    yield HFTensor(f"{name}.bias", f"{hf}.bias", False, part)
