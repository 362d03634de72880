"""Translates T5 and T5 v1.1."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dist_plm.interop.hf.base import HEADS, Half, HFModel, HFTensor, Settings, architecture_of, count_layers
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.families.t5 import T5Config

if TYPE_CHECKING:
    from dist_plm.interop.hf.checkpoint_tokenizer import CheckpointTokenizer


class HFT5(HFModel):
    """Translates T5ForConditionalGeneration and T5Model."""

    model_type = family = "t5"
    classes: ClassVar = {"T5ForConditionalGeneration": HEADS, "T5Model": ()}
    prefix = ""
    copies: ClassVar = {
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    }
    idle = re.compile(r"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$")
    first_names = ("t5", "shared")
    word = "shared.weight"

    def read_settings(self, settings: Settings) -> dict[str, Any]:
        s = settings
        dropout = s.get("dropout_rate", 0.1)
        heads = s["num_heads"]
        activation = s.one_of("feed_forward_proj", {"relu": "relu", "gated-gelu": "geglu"}, "relu")
        # What follows from that, and counts where a file says otherwise.
        s.must_be("dense_act_fn", "gelu_new" if activation == "geglu" else "relu")
        s.must_be("is_gated_act", activation == "geglu")
        return {
            "family": self.family,
            "layers": s["num_layers"],
            "decoder_layers": s.get("num_decoder_layers", s["num_layers"]),
            "hidden": s["d_model"],
            "heads": heads,
            "kv_heads": heads,
            "head_size": s["d_kv"],
            "ffn": s["d_ff"],
            "vocab_size": s["vocab_size"],
            "position": "relative",
            "relative_buckets": s.get("relative_attention_num_buckets", 32),
            "relative_distance": s.get("relative_attention_max_distance", 128),
            "activation": activation,
            "norm": "rmsnorm",
            "norm_eps": s.get("layer_norm_epsilon", 1e-6),
            "bias": False,
            # Since version 5 the files of untied models say that they are tied, and tell by the scale that they are not.
            "tied_embeddings": s.get("scale_decoder_outputs", s.get("tie_word_embeddings", True)),
            "hidden_dropout": dropout,
            "attention_dropout": dropout,
        }

    def write_settings(self, model: ModelConfig) -> dict[str, Any]:
        assert isinstance(model, T5Config)
        return {
            "model_type": self.model_type,
            "vocab_size": model.vocab_size,
            "d_model": model.hidden,
            "d_kv": model.head_size,
            "d_ff": model.ffn,
            "num_layers": model.layers,
            "num_decoder_layers": model.decoder_layers,
            "num_heads": model.heads,
            "relative_attention_num_buckets": model.relative_buckets,
            "relative_attention_max_distance": model.relative_distance,
            "dropout_rate": model.hidden_dropout,
            "layer_norm_epsilon": model.norm_eps,
            "feed_forward_proj": "gated-gelu" if model.activation == "geglu" else "relu",
            "is_encoder_decoder": True,
            "tie_word_embeddings": model.tied_embeddings,
        }

    def model_from_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
        return T5Config(
            layers=count_layers(shapes, "encoder.block"),
            decoder_layers=count_layers(shapes, "decoder.block"),
            hidden=shapes["shared.weight"][1],
            heads=1,
            position="relative",
            activation="geglu" if any(name.endswith("wi_0.weight") for name in shapes) else "relu",
            tied_embeddings="lm_head.weight" not in shapes,
        )

    def tensors(self, model: ModelConfig, half: Half | None = None) -> Iterator[HFTensor]:
        yield HFTensor("embedding.word.weight", "shared.weight")
        assert isinstance(model, T5Config)
        assert model.decoder_layers is not None
        for stack, layers in (("encoder", model.layers), ("decoder", model.decoder_layers)):
            bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            yield HFTensor(f"{stack}.relative.weight", bias)
            for i in range(layers):
                yield from _layer(model, f"{stack}.layers.{i}", f"{stack}.block.{i}.layer", cross=stack == "decoder")
            yield HFTensor(f"{stack}.final_norm.weight", f"{stack}.final_layer_norm.weight")
        if not model.tied_embeddings:
            yield HFTensor("output.weight", "lm_head.weight")

    def left_to_others(self, settings: Mapping[str, Any]) -> Mapping[str, str]:
        """Transformers 5 ties v1.1's output too, until it reads files in which the two differ."""
        tied = settings.get("tie_word_embeddings") is True and settings.get("scale_decoder_outputs") is False
        return {"lm_head.weight": "shared.weight"} if tied and self.needed_by(architecture_of(settings)) else {}

    def class_of(self, tensors: Collection[str], half: Half | None) -> str:
        return "T5ForConditionalGeneration"

    def token_numbers(self, tokens: "CheckpointTokenizer") -> dict[str, int | None]:
        special = tokens.special
        pad = tokens.end if special is None or special.pad is None else special.pad
        start = 0 if pad is None else pad  # with which decoders begin in training; of no tokenizer T5's own
        eos = tokens.end if special is None or special.eos is None else special.eos
        return {"pad_token_id": start, "decoder_start_token_id": start, "eos_token_id": eos}


def _layer(model: ModelConfig, name: str, hf: str, *, cross: bool) -> Iterator[HFTensor]:
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
