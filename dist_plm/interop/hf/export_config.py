"""The config.json with which Hugging Face loads one of our models."""

from collections.abc import Callable, Collection
from typing import Any

from dist_plm.config.decode import show
from dist_plm.core.errors import CheckpointError
from dist_plm.interop.hf.config import Half, differences, model_of
from dist_plm.spec.derived import generator_of
from dist_plm.spec.schema import ModelConfig

_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}


def hf_config(model: ModelConfig, tensors: Collection[str], half: Half | None = None) -> dict[str, Any]:
    """The content of config.json, but for token numbers.

    Args:
        model: finalised.
        tensors: canonical names of the weights that there are: without a head it is the class of the network below it.
        half: of electra alone, and needed there.
    Raises:
        CheckpointError: Hugging Face has no class for such a model; the settings that none has are named.
    """
    if model.family not in _CONFIGS:
        raise CheckpointError(f"Hugging Face has no class for model.family = {model.family!r}")
    network = generator_of(model) if half == "generator" else model
    config = {"architectures": [architecture(model, tensors, half)], **_CONFIGS[model.family](network)}
    # Neither half's file tells how large the generator is beside the discriminator.
    found = differences(network, model_of(config, "config.json"), "discriminator" if half else None)
    if found:
        told = ", ".join(f"model.{name} = {show(ours)} (it has {show(theirs)})" for name, ours, theirs in found)
        raise CheckpointError(f"Hugging Face's {config['architectures'][0]} cannot be a model with {told}")
    return config


def architecture(model: ModelConfig, tensors: Collection[str], half: Half | None = None) -> str:
    """The class of Hugging Face that holds these weights."""
    predicts = "transform.dense.weight" in tensors
    if model.family == "bert":
        pairs = "pair.classifier.weight" in tensors
        return ("BertForPreTraining" if pairs else "BertForMaskedLM") if predicts else "BertModel"
    if model.family == "roberta":
        return "RobertaForMaskedLM" if predicts else "RobertaModel"
    if model.family == "electra":
        return "ElectraForMaskedLM" if half == "generator" else "ElectraForPreTraining"
    if model.family == "t5":
        return "T5ForConditionalGeneration"
    return "LlamaForCausalLM" if model.position == "rotary" else "GPT2LMHeadModel"


def _encoder(model: ModelConfig) -> dict[str, Any]:
    assert model.max_positions is not None
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "intermediate_size": model.ffn,
        "hidden_act": _ACTIVATIONS.get(model.activation, "gelu"),
        "hidden_dropout_prob": model.hidden_dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "max_position_embeddings": model.max_positions,
        "type_vocab_size": max(model.segments, 1),
        "initializer_range": model.init_std,
        "layer_norm_eps": model.norm_eps,
    }


def _bert(model: ModelConfig) -> dict[str, Any]:
    return {"model_type": "bert", **_encoder(model)}


def _roberta(model: ModelConfig) -> dict[str, Any]:
    assert model.max_positions is not None
    rows = model.max_positions + model.position_offset
    padding = {"pad_token_id": max(model.position_offset, 1) - 1}
    return {"model_type": "roberta", **_encoder(model), "max_position_embeddings": rows, **padding}


def _electra(model: ModelConfig) -> dict[str, Any]:
    return {"model_type": "electra", **_encoder(model), "embedding_size": model.embedding_size}


def _gpt(model: ModelConfig) -> dict[str, Any]:
    return _llama(model) if model.position == "rotary" else _gpt2(model)


def _gpt2(model: ModelConfig) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "vocab_size": model.vocab_size,
        "n_positions": model.max_positions,
        "n_embd": model.hidden,
        "n_layer": model.layers,
        "n_head": model.heads,
        "n_inner": None if model.ffn == 4 * model.hidden else model.ffn,
        "activation_function": _ACTIVATIONS.get(model.activation, "gelu_new"),
        "resid_pdrop": model.hidden_dropout,
        "embd_pdrop": model.hidden_dropout,
        "attn_pdrop": model.attention_dropout,
        "layer_norm_epsilon": model.norm_eps,
        "initializer_range": model.init_std,
        "tie_word_embeddings": model.tied_embeddings,
    }


def _llama(model: ModelConfig) -> dict[str, Any]:
    return {
        "model_type": "llama",
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


def _t5(model: ModelConfig) -> dict[str, Any]:
    return {
        "model_type": "t5",
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


_CONFIGS: dict[str, Callable[[ModelConfig], dict[str, Any]]] = {
    "bert": _bert,
    "roberta": _roberta,
    "electra": _electra,
    "gpt": _gpt,
    "t5": _t5,
}
