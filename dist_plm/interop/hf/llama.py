"""Translates Llama: a gpt with rotary positions, in the half-split layout on both sides."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dist_plm.core.errors import CheckpointError
from dist_plm.interop.hf.base import HEADS, Half, HFModel, HFTensor, Settings, count_layers
from dist_plm.interop.hf.gpt2 import causal_token_numbers
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.families.gpt import GPTConfig

if TYPE_CHECKING:
    from dist_plm.interop.hf.checkpoint_tokenizer import CheckpointTokenizer


class HFLlama(HFModel):
    """Translates LlamaForCausalLM, LlamaModel and LlamaForSequenceClassification."""

    model_type = "llama"
    family = "gpt"
    classes: ClassVar = {"LlamaForCausalLM": HEADS, "LlamaModel": ()}
    task_classes: ClassVar = {"LlamaForSequenceClassification": "sequence"}
    head_names = ("lm_head.", "score.")
    task_left_out = re.compile(r"^lm_head\.")
    prefix = "model."
    copies: ClassVar = {"lm_head.weight": "model.embed_tokens.weight"}
    idle = re.compile(r"(^|\.)position_ids$|\.rotary_emb\.inv_freq$")
    first_names = ("llama", "model")
    word = "model.embed_tokens.weight"

    def stores(self, model: ModelConfig) -> bool:
        return model.family == self.family and model.position == "rotary"

    def read_settings(self, settings: Settings) -> dict[str, Any]:
        s = settings
        s.must_be("attention_bias", False)
        s.must_be("mlp_bias", False)
        s.must_be("hidden_act", "silu")
        # Of both the older name counts, as in Transformers, unless there is nothing in it.
        rope = s.mapping("rope_scaling") or s.mapping("rope_parameters")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise CheckpointError(
                f"{s.where}: rotary positions of rope_type {kind!r} are not supported, 'default' alone"
            )
        hidden, heads = s["hidden_size"], s["num_attention_heads"]
        return {
            "family": self.family,
            "layers": s["num_hidden_layers"],
            "hidden": hidden,
            "heads": heads,
            "kv_heads": s.get("num_key_value_heads", heads),
            "head_size": s.get("head_dim", hidden // heads),
            "ffn": s["intermediate_size"],
            "vocab_size": s["vocab_size"],
            "max_positions": s.get("max_position_embeddings", 2048),
            "position": "rotary",
            "rotary_base": rope.get("rope_theta", s.get("rope_theta", 10000.0)),
            "activation": "swiglu",
            "norm": "rmsnorm",
            "norm_eps": s.get("rms_norm_eps", 1e-6),
            "bias": False,
            "tied_embeddings": s.get("tie_word_embeddings", False),
            "attention_dropout": s.get("attention_dropout", 0.0),
            "init_std": s.get("initializer_range", 0.02),
        }

    def write_settings(self, model: ModelConfig) -> dict[str, Any]:
        if model.hidden % model.heads:
            raise CheckpointError(
                f"Hugging Face's LlamaForCausalLM cannot be a model with model.hidden = {model.hidden} and model.heads = "
                f"{model.heads}: it wants a multiple, whatever model.head_size is"
            )
        return {
            "model_type": self.model_type,
            "vocab_size": model.vocab_size,
            "hidden_size": model.hidden,
            "intermediate_size": model.ffn,
            "num_hidden_layers": model.layers,
            "num_attention_heads": model.heads,
            "num_key_value_heads": model.kv_heads,
            "head_dim": model.head_size,
            "hidden_act": "silu",
            "max_position_embeddings": model.max_positions,
            "initializer_range": model.init_std,
            "rms_norm_eps": model.norm_eps,
            "attention_bias": False,
            "attention_dropout": model.attention_dropout,
            "mlp_bias": False,
            "rope_theta": model.rotary_base,
            "tie_word_embeddings": model.tied_embeddings,
        }

    def model_from_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
        return GPTConfig(
            layers=count_layers(shapes, "model.layers"),
            hidden=shapes["model.embed_tokens.weight"][1],
            heads=1,
            position="rotary",
            tied_embeddings="lm_head.weight" not in shapes,
        )

    def tensors(self, model: ModelConfig, half: Half | None = None) -> Iterator[HFTensor]:
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
        if not model.predicts_tokens:
            yield HFTensor("head.output.weight", "score.weight")
        elif not model.tied_embeddings:
            yield HFTensor("output.weight", "lm_head.weight")

    def class_of(self, tensors: Collection[str], half: Half | None) -> str:
        return "LlamaForCausalLM"

    def token_numbers(self, tokens: "CheckpointTokenizer") -> dict[str, int | None]:
        return causal_token_numbers(tokens)
