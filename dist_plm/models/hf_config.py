"""config.json of Hugging Face and the model it describes, in both directions. Imports no PyTorch."""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from dist_plm.config.decode import decode, show
from dist_plm.config.schema import ModelConfig
from dist_plm.errors import CheckpointError, ConfigError

CONFIG_FILE = "config.json"
Half = Literal["generator", "discriminator"]
HALVES: tuple[Half, ...] = ("generator", "discriminator")

#: `model_type` of each family; gpt is two.
TYPES = {"bert": "bert", "roberta": "roberta", "electra": "electra", "gpt2": "gpt", "llama": "gpt", "t5": "t5"}
#: Classes whose weights are read, by `model_type`: those that predict, and the network below them alone.
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "bert": ("BertForPreTraining", "BertForMaskedLM", "BertModel"),
    "roberta": ("RobertaForMaskedLM", "RobertaModel"),
    "electra": ("ElectraForMaskedLM", "ElectraForPreTraining"),
    "gpt2": ("GPT2LMHeadModel", "GPT2Model"),
    "llama": ("LlamaForCausalLM", "LlamaModel"),
    "t5": ("T5ForConditionalGeneration", "T5Model"),
}
#: Of the names of activations in `hidden_act`, ours; the first of each is the one that is written.
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}

#: What neither the weights nor what they compute depends on.
FREE = ("vocab_multiple", "hidden_dropout", "attention_dropout", "init_std", "recompute", "pair_head", "init_from")
#: Read with one kind of `position` alone.
_OF_POSITION = {
    "max_positions": ("learned",),
    "position_offset": ("learned",),
    "rotary_base": ("rotary",),
    "relative_buckets": ("relative",),
    "relative_distance": ("relative",),
}


def read_config(directory: Path) -> dict[str, Any]:
    """The content of `directory`/config.json.

    Raises:
        CheckpointError: it is missing or no JSON object.
    """
    path = directory / CONFIG_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{directory} has no {CONFIG_FILE}, which tells the sizes of the model: give a directory as "
            "save_pretrained of Hugging Face writes it"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} does not describe a model: it holds no JSON object")
    return content


def type_of(config: Mapping[str, Any], where: str) -> str:
    """The `model_type` of a config.json.

    Raises:
        CheckpointError: it, or the class it was saved from, is none of those that can be read.
    """
    known = config.get("model_type")
    if known not in TYPES:
        raise CheckpointError(
            f"{where} is of model_type {known!r}, which this program has no model for: it knows {', '.join(TYPES)}"
        )
    named = architecture_of(config)
    if named is not None and named not in ARCHITECTURES[known]:
        raise CheckpointError(
            f"{where} is of a {named}; of model_type {known!r} the weights of {' and '.join(ARCHITECTURES[known])} are read"
        )
    return known


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """The class that a config.json was saved from, where it tells."""
    named = config.get("architectures") or [None]
    return named[0]


def model_of(config: Mapping[str, Any], where: str) -> ModelConfig:
    """The model that a config.json describes, complete but for `pair_head`, and for `max_positions` where no table of them
    is learned. Of one half of electra, whose generator is then as large as the discriminator.

    Args:
        where: how messages call the file.
    Raises:
        CheckpointError: of another type, or with a setting that our models do not have.
    """
    settings = _Settings(config, where)
    try:
        return decode(ModelConfig, _MODELS[type_of(config, where)](settings))
    except ConfigError as error:
        raise CheckpointError(f"{where} does not describe a model: {'; '.join(error.problems)}") from None


def pair_of(generator: ModelConfig, discriminator: ModelConfig, where: str) -> ModelConfig:
    """ELECTRA's model of the two that its halves' files describe.

    Raises:
        CheckpointError: the halves cannot share their embeddings, or differ in what the two have in common here.
    """
    model = replace(
        discriminator,
        generator_hidden=generator.hidden,
        generator_layers=generator.layers,
        generator_heads=generator.heads,
        generator_ffn=generator.ffn,
    )
    own = ("hidden", "layers", "heads", "kv_heads", "head_size", "ffn")
    common = {name: getattr(discriminator, name) for name in own}
    if found := differences(replace(generator, **common, **_generator_sizes(discriminator)), discriminator):
        told = "; ".join(
            f"{name} is {show(a)} in the generator, {show(b)} in the discriminator" for name, a, b in found
        )
        raise CheckpointError(f"the halves of {where} are not of one model: {told}")
    return model


def _generator_sizes(model: ModelConfig) -> dict[str, int | None]:
    names = ("generator_hidden", "generator_layers", "generator_heads", "generator_ffn")
    return {name: getattr(model, name) for name in names}


def differences(ours: ModelConfig, theirs: ModelConfig) -> list[tuple[str, Any, Any]]:
    """Settings in which two models' weights, or what they compute with them, differ: name, ours, theirs."""
    names = [field.name for field in fields(ModelConfig) if field.name not in FREE]
    if ours.family != "electra":
        names = [name for name in names if not name.startswith("generator_")]
    unread = [name for name, positions in _OF_POSITION.items() if ours.position not in positions]
    pairs = [(name, getattr(ours, name), getattr(theirs, name)) for name in names if name not in unread]
    return [pair for pair in pairs if pair[1] != pair[2]]


class _Settings:
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


def _encoder(s: _Settings) -> dict[str, Any]:
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


def _bert(s: _Settings) -> dict[str, Any]:
    s.must_be("hidden_act", "gelu")  # of the head, too, where ours is always that
    return {"family": "bert", **_encoder(s)}


def _roberta(s: _Settings) -> dict[str, Any]:
    """Positions are counted from the row after that of padding (`create_position_ids_from_input_ids`)."""
    offset = s.get("pad_token_id", 1) + 1
    rows = s["max_position_embeddings"]
    return {"family": "roberta", **_encoder(s), "max_positions": rows - offset, "position_offset": offset}


def _electra(s: _Settings) -> dict[str, Any]:
    s.must_be("hidden_act", "gelu")
    model = {"family": "electra", **_encoder(s), "embedding_size": s.get("embedding_size", 128)}
    sizes = {f"generator_{name}": model[name] for name in ("hidden", "layers", "heads", "ffn")}
    return model | sizes


def _gpt2(s: _Settings) -> dict[str, Any]:
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


def _llama(s: _Settings) -> dict[str, Any]:
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


def _t5(s: _Settings) -> dict[str, Any]:
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


_MODELS: dict[str, Callable[[_Settings], dict[str, Any]]] = {
    "bert": _bert,
    "roberta": _roberta,
    "electra": _electra,
    "gpt2": _gpt2,
    "llama": _llama,
    "t5": _t5,
}
