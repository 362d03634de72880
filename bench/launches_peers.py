"""The networks of `transformers` that stand beside ours in bench/launches.py and bench/gpu.py, and the batches of both."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Case:
    """A preset of conf/model, the objective it is trained with, and the same network of `transformers`.

    Args:
        build: the peer, of the sizes of a preset.
        loss: what the peer makes of a batch.
    """

    objective: str
    build: Callable[[dict[str, Any]], nn.Module]
    loss: Callable[[Any, Batch], Tensor]


def bert_sizes(preset: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "num_hidden_layers": preset["layers"],
        "hidden_size": preset["hidden"],
        "num_attention_heads": preset["heads"],
        "intermediate_size": preset.get("ffn", 4 * preset["hidden"]),
        "vocab_size": preset["vocab_size"],
        "hidden_dropout_prob": preset["hidden_dropout"],
        "attention_probs_dropout_prob": preset["attention_dropout"],
        **more,
    }


def bert(preset: dict[str, Any]) -> nn.Module:
    return transformers.BertForPreTraining(transformers.BertConfig(**bert_sizes(preset)))


def roberta(preset: dict[str, Any]) -> nn.Module:
    return transformers.RobertaForMaskedLM(transformers.RobertaConfig(**bert_sizes(preset)))


def gpt2(preset: dict[str, Any]) -> nn.Module:
    drops = {"resid_pdrop": preset["hidden_dropout"], "embd_pdrop": preset["hidden_dropout"]}
    sizes = {"n_layer": preset["layers"], "n_embd": preset["hidden"], "n_head": preset["heads"]}
    sizes |= {"vocab_size": preset["vocab_size"], "n_positions": preset["max_positions"]}
    config = transformers.GPT2Config(**sizes, **drops, attn_pdrop=preset["attention_dropout"])
    return transformers.GPT2LMHeadModel(config)


def llama(preset: dict[str, Any]) -> nn.Module:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            num_hidden_layers=preset["layers"],
            hidden_size=preset["hidden"],
            num_attention_heads=preset["heads"],
            num_key_value_heads=preset.get("kv_heads") or preset["heads"],
            intermediate_size=preset["ffn"],
            vocab_size=preset["vocab_size"],
        )
    )


def t5(preset: dict[str, Any]) -> nn.Module:
    gated = preset["activation"] == "geglu"
    config = transformers.T5Config(
        num_layers=preset["layers"],
        d_model=preset["hidden"],
        num_heads=preset["heads"],
        d_kv=preset["head_size"],
        d_ff=preset["ffn"],
        vocab_size=preset["vocab_size"],
        dropout_rate=preset["hidden_dropout"],
        feed_forward_proj="gated-gelu" if gated else "relu",
        use_cache=False,
    )
    return transformers.T5ForConditionalGeneration(config)


class ElectraPair(nn.Module):
    """Generator and discriminator, put together as in the paper's code: `transformers` has each alone."""

    def __init__(self, preset: dict[str, Any]) -> None:
        super().__init__()
        config = transformers.ElectraConfig(**bert_sizes(preset, embedding_size=preset["embedding_size"]))
        self.generator = transformers.ElectraForMaskedLM(config)
        self.discriminator = transformers.ElectraForPreTraining(config)

    def forward(self, batch: Batch) -> Tensor:
        labels, mask = hf_labels(batch), padding(batch)
        out = self.generator(batch["tokens"], attention_mask=mask, labels=labels)
        with torch.no_grad():
            noise = -torch.log(-torch.log(torch.rand_like(out.logits)))
            drawn = (out.logits + noise).argmax(-1)
        originals = batch["originals"].clamp(min=0)
        tokens = torch.where(labels >= 0, drawn, originals)
        found = self.discriminator(tokens, attention_mask=mask, labels=(tokens != originals).long())
        return out.loss + 50.0 * found.loss


def hf_labels(batch: Batch) -> Tensor:
    return torch.where(batch["labels"] >= 0, batch["labels"], -100)


def padding(batch: Batch) -> Tensor:
    length = batch["tokens"].shape[1]
    return (torch.arange(length, device=batch["tokens"].device) < batch["lengths"][:, None]).long()


def bert_loss(model: Any, batch: Batch) -> Tensor:
    labels, pairs = hf_labels(batch), batch["pair_labels"]
    return model(
        batch["tokens"],
        attention_mask=padding(batch),
        token_type_ids=batch["segments"],
        labels=labels,
        next_sentence_label=pairs,
    ).loss


def masked_loss(model: Any, batch: Batch) -> Tensor:
    return model(batch["tokens"], labels=hf_labels(batch)).loss


def causal_loss(model: Any, batch: Batch) -> Tensor:
    return model(batch["tokens"], labels=hf_labels(batch), use_cache=False).loss


def span_loss(model: Any, batch: Batch) -> Tensor:
    tokens, labels = batch["decoder_tokens"], hf_labels(batch)
    return model(batch["tokens"], attention_mask=padding(batch), decoder_input_ids=tokens, labels=labels).loss


CASES = {
    "bert_base": Case("mlm_nsp", bert, bert_loss),
    "bert_large": Case("mlm_nsp", bert, bert_loss),
    "roberta_base": Case("mlm", roberta, masked_loss),
    "electra_base": Case("rtd", ElectraPair, lambda model, batch: model(batch)),
    "t5_base": Case("span", t5, span_loss),
    "t5_v1_1_base": Case("span", t5, span_loss),
    "gpt2_small": Case("causal", gpt2, causal_loss),
    "gpt2_medium": Case("causal", gpt2, causal_loss),
    "llama2_7b": Case("causal", llama, causal_loss),
    "llama3_8b": Case("causal", llama, causal_loss),
}


def batch_of(objective: str, rows: int, length: int, vocab: int) -> Batch:
    """A microbatch of random tokens, one row in two padded a little where the objective pads."""
    draw = torch.Generator().manual_seed(0)

    def tokens(width: int = length) -> Tensor:
        return torch.randint(5, vocab, (rows, width), generator=draw)

    batch = {"tokens": tokens(), "labels": tokens(), "samples": torch.arange(rows)}
    lengths = torch.where(torch.arange(rows) % 2 == 1, length - length // 4, length)
    if objective in ("mlm", "mlm_nsp", "rtd"):
        chosen = torch.rand(rows, length, generator=draw) < 0.15
        batch["labels"] = torch.where(chosen, batch["labels"], -1)
    if objective in ("mlm_nsp", "rtd", "span"):
        batch["lengths"] = lengths
    if objective == "mlm_nsp":
        batch |= {"segments": torch.zeros(rows, length, dtype=torch.long), "pair_labels": torch.arange(rows) % 2}
    if objective == "rtd":
        batch["originals"] = torch.where(torch.arange(length) < lengths[:, None], tokens(), -1)
    if objective == "span":
        batch["decoder_tokens"] = tokens()
    return batch
