"""Small Hugging Face models with random weights, the configuration that makes ours the same, and what they say of a batch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tests.ranks.training import VOCAB

SIZES = {"vocab_size": VOCAB, "pad_token_id": 0}
BERT_SIZES = {
    **SIZES,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 32,
    "initializer_range": 0.1,
    "attn_implementation": "eager",
}
POST_NORM = {"model__norm_placement": "post", "model__activation": "gelu", "model__norm_eps": 1e-12}


@dataclass(frozen=True)
class Case:
    """`loss` is what Hugging Face computes from a batch, by our names; `logits` over the vocabulary, [B, S, V]."""

    build: Callable[[], nn.Module]
    changes: dict[str, Any]
    loss: Callable[[Any, dict[str, Tensor]], dict[str, Tensor]]
    logits: Callable[[Any, dict[str, Tensor]], Tensor]


def attended(batch: dict[str, Tensor]) -> Tensor:
    rows, length = batch["tokens"].shape
    return (torch.arange(length) < batch.get("lengths", torch.full((rows,), length))[:, None]).long()


def hf_labels(labels: Tensor) -> Tensor:
    return torch.where(labels >= 0, labels, -100)


def bert_outputs(model, batch, **labels):
    return model(batch["tokens"], attention_mask=attended(batch), token_type_ids=batch.get("segments"), **labels)


def bert_loss(model, batch):
    labels = hf_labels(batch["labels"])
    out = bert_outputs(model, batch, labels=labels, next_sentence_label=hf_labels(batch["pair_labels"]))
    mlm = nn.functional.cross_entropy(out.prediction_logits.flatten(0, 1), labels.flatten())
    return {"mlm": mlm, "nsp": out.loss - mlm}


def causal_loss(model, batch):
    logits = model(batch["tokens"]).logits
    return {"causal": nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-1)}


def t5_outputs(model, batch):
    return model(
        batch["tokens"],
        attention_mask=attended(batch),
        decoder_input_ids=batch["decoder_tokens"],
        labels=hf_labels(batch["labels"]),
    )


def nearest_zero(model: nn.Module, read: Callable[[Any], Any]) -> float:
    """How near 0 a unit of ReLU comes as `read(model)` runs it. Nearer than rounding's errors, its gradient is by chance."""
    distances = [math.inf]
    hooks = [
        module.register_forward_hook(lambda _, inputs, output: distances.append(float(inputs[0].detach().abs().min())))
        for module in model.modules()
        if isinstance(module, nn.ReLU)
    ]
    with torch.no_grad():
        read(model)
    for hook in hooks:
        hook.remove()
    return min(distances)


def untied_t5() -> nn.Module:
    """As v1.1 is published. The class ties the output at first and unties it when a checkpoint has both weights."""
    config = transformers.T5Config(**T5_SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model = transformers.T5ForConditionalGeneration(config)
    model.lm_head.weight = nn.Parameter(torch.randn(VOCAB, 64) * 0.1)
    return model


ELECTRA = {
    **POST_NORM,
    "model__family": "electra",
    "model__segments": 2,
    "model__embedding_size": 48,
    "model__generator_hidden": 32,
    "model__generator_heads": 2,
    "objective__name": "rtd",
}
T5 = {
    "model__family": "t5",
    "model__position": "relative",
    "model__relative_distance": 20,
    "model__head_size": 24,
    "model__layers": 3,
    "model__decoder_layers": 2,
    "model__norm": "rmsnorm",
    "model__norm_eps": 1e-6,
    "model__bias": False,
    "objective__name": "span",
}
T5_SIZES = {
    **SIZES,
    "d_model": 64,
    "d_kv": 24,
    "d_ff": 256,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
    "attn_implementation": "eager",
}


def _tied_t5(activation: str) -> Case:
    """As it was published at first, with ReLU."""
    return Case(
        lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(**T5_SIZES, feed_forward_proj=activation, tie_word_embeddings=True)
        ),
        {**T5, "model__activation": activation, "model__tied_embeddings": True},
        lambda model, batch: {"span": t5_outputs(model, batch).loss},
        lambda model, batch: t5_outputs(model, batch).logits,
    )


#: For gradients after many tokens or steps, where a unit of ReLU would come so near 0 that rounding decides whether it learns.
SMOOTH_T5 = _tied_t5("gelu")

CASES = {
    "bert": Case(
        lambda: transformers.BertForPreTraining(transformers.BertConfig(**BERT_SIZES)),
        {**POST_NORM, "model__family": "bert", "model__segments": 2, "objective__name": "mlm_nsp"},
        bert_loss,
        lambda model, batch: bert_outputs(model, batch).prediction_logits,
    ),
    "bert_mlm": Case(
        lambda: transformers.BertForMaskedLM(transformers.BertConfig(**BERT_SIZES)),
        {**POST_NORM, "model__family": "bert", "model__segments": 2, "objective__name": "mlm"},
        lambda model, batch: {"mlm": bert_outputs(model, batch, labels=hf_labels(batch["labels"])).loss},
        lambda model, batch: bert_outputs(model, batch).logits,
    ),
    "roberta": Case(
        lambda: transformers.RobertaForMaskedLM(
            transformers.RobertaConfig(
                **{**BERT_SIZES, "max_position_embeddings": 34, "pad_token_id": 1, "layer_norm_eps": 1e-5},
                type_vocab_size=1,
            )
        ),
        {
            **POST_NORM,
            "model__family": "roberta",
            "model__norm_eps": 1e-5,
            "model__segments": 1,
            "model__position_offset": 2,
            "objective__name": "mlm",
        },
        lambda model, batch: {"mlm": bert_outputs(model, batch, labels=hf_labels(batch["labels"])).loss},
        lambda model, batch: bert_outputs(model, batch).logits,
    ),
    "t5": _tied_t5("relu"),
    "t5_v1_1": Case(
        untied_t5,
        {**T5, "model__activation": "geglu", "model__tied_embeddings": False},
        lambda model, batch: {"span": t5_outputs(model, batch).loss},
        lambda model, batch: t5_outputs(model, batch).logits,
    ),
    "gpt2": Case(
        lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=VOCAB, n_positions=32, n_embd=64, n_layer=4, n_head=4, attn_implementation="eager"
            )
        ),
        {"objective__name": "causal"},
        causal_loss,
        lambda model, batch: model(batch["tokens"]).logits,
    ),
    "llama": Case(
        lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=64,
                intermediate_size=256,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                rms_norm_eps=1e-5,
                attn_implementation="eager",
            )
        ),
        {
            "model__position": "rotary",
            "model__norm": "rmsnorm",
            "model__activation": "swiglu",
            "model__bias": False,
            "model__tied_embeddings": False,
            "model__kv_heads": 2,
            "objective__name": "causal",
        },
        causal_loss,
        lambda model, batch: model(batch["tokens"]).logits,
    ),
}


def electra_halves() -> tuple[nn.Module, nn.Module]:
    """A generator and a discriminator that share their embeddings."""
    small = {**BERT_SIZES, "hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2}
    generator = transformers.ElectraForMaskedLM(transformers.ElectraConfig(**small, embedding_size=48))
    discriminator = transformers.ElectraForPreTraining(transformers.ElectraConfig(**BERT_SIZES, embedding_size=48))
    discriminator.electra.embeddings = generator.electra.embeddings
    return generator.eval(), discriminator.eval()
