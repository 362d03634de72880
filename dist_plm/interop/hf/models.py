"""The model that the settings in a config.json of Hugging Face describe, by `model_type`."""

from collections.abc import Callable, Mapping
from typing import Any

from dist_plm.config.decode import show
from dist_plm.core.errors import CheckpointError

#: Of the names of activations in `hidden_act`, ours; the first of each is the one that is written.
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}


class Settings:
    """The settings of a config.json; what is asked for and missing is refused."""

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self.content, self.where = content, where

    def __getitem__(self, name: str) -> Any:
        if self.content.get(name) is None:
            raise CheckpointError(f"{self.where} has no {name}")
        return self.content[name]

    def get(self, name: str, default: Any) -> Any:
        value = self.content.get(name)
        return default if value is None else value

    def one_of(self, name: str, known: Mapping[Any, Any], default: Any) -> Any:
        """What `known` makes of a setting."""
        value = self.get(name, default)
        if value not in known:
            choices = ", ".join(show(choice) for choice in known)
            raise CheckpointError(f"{self.where}: {name} = {show(value)} is not supported, {choices} alone")
        return known[value]

    def must_be(self, name: str, value: Any) -> None:
        self.one_of(name, {value: value}, value)


def _encoder(s: Settings) -> dict[str, Any]:
    s.must_be("position_embedding_type", "absolute")
    s.must_be("is_decoder", False)
    hidden, heads = s["hidden_size"], s["num_attention_heads"]
    return {
        "layers": s["num_hidden_layers"],
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads,
        "head_size": hidden // heads,
        "ffn": s["intermediate_size"],
        "vocab_size": s["vocab_size"],
        "max_positions": s["max_position_embeddings"],
        "segments": s.get("type_vocab_size", 2),
        "embedding_size": hidden,
        "activation": s.one_of("hidden_act", _ACTIVATIONS, "gelu"),
        "norm_placement": "post",
        "norm_eps": s.get("layer_norm_eps", 1e-12),
        "hidden_dropout": s.get("hidden_dropout_prob", 0.1),
        "attention_dropout": s.get("attention_probs_dropout_prob", 0.1),
        "init_std": s.get("initializer_range", 0.02),
    }


def _bert(s: Settings) -> dict[str, Any]:
    s.must_be("hidden_act", "gelu")  # of the head, too, where ours is always that
    return {"family": "bert", **_encoder(s)}


def _roberta(s: Settings) -> dict[str, Any]:
    """Positions are counted from the row after that of padding (`create_position_ids_from_input_ids`)."""
    offset = s.get("pad_token_id", 1) + 1
    rows = s["max_position_embeddings"]
    return {"family": "roberta", **_encoder(s), "max_positions": rows - offset, "position_offset": offset}


def _electra(s: Settings) -> dict[str, Any]:
    s.must_be("hidden_act", "gelu")
    model = {"family": "electra", **_encoder(s), "embedding_size": s.get("embedding_size", 128)}
    sizes = {f"generator_{name}": model[name] for name in ("hidden", "layers", "heads", "ffn")}
    return model | sizes


def _gpt2(s: Settings) -> dict[str, Any]:
    s.must_be("scale_attn_weights", True)
    s.must_be("scale_attn_by_inverse_layer_idx", False)
    s.must_be("add_cross_attention", False)
    hidden, heads = s["n_embd"], s["n_head"]
    return {
        "family": "gpt",
        "layers": s["n_layer"],
        "hidden": hidden,
        "heads": heads,
        "kv_heads": heads,
        "head_size": hidden // heads,
        "ffn": s.get("n_inner", 4 * hidden),
        "vocab_size": s["vocab_size"],
        "max_positions": s["n_positions"],
        "activation": s.one_of("activation_function", _ACTIVATIONS, "gelu_new"),
        "norm_eps": s.get("layer_norm_epsilon", 1e-5),
        "tied_embeddings": s.get("tie_word_embeddings", True),
        "hidden_dropout": s.get("resid_pdrop", 0.1),
        "attention_dropout": s.get("attn_pdrop", 0.1),
        "init_std": s.get("initializer_range", 0.02),
    }


def _llama(s: Settings) -> dict[str, Any]:
    s.must_be("attention_bias", False)
    s.must_be("mlp_bias", False)
    s.must_be("hidden_act", "silu")
    rope = s.get("rope_parameters", s.get("rope_scaling", {}))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"{s.where}: rotary positions of rope_type {kind!r} are not supported, 'default' alone")
    hidden, heads = s["hidden_size"], s["num_attention_heads"]
    return {
        "family": "gpt",
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


def _t5(s: Settings) -> dict[str, Any]:
    dropout = s.get("dropout_rate", 0.1)
    heads = s["num_heads"]
    return {
        "family": "t5",
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
        "activation": s.one_of("feed_forward_proj", {"relu": "relu", "gated-gelu": "geglu"}, "relu"),
        "norm": "rmsnorm",
        "norm_eps": s.get("layer_norm_epsilon", 1e-6),
        "bias": False,
        # Since version 5 the files of untied models say that they are tied, and tell by the scale that they are not.
        "tied_embeddings": s.get("scale_decoder_outputs", s.get("tie_word_embeddings", True)),
        "hidden_dropout": dropout,
        "attention_dropout": dropout,
    }


#: Values of ModelConfig.
MODELS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "bert": _bert,
    "roberta": _roberta,
    "electra": _electra,
    "gpt2": _gpt2,
    "llama": _llama,
    "t5": _t5,
}
