"""The networks of `transformers` that bench/launches.py counts beside ours, and the batches of both."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

ROWS, LENGTH, VOCAB = 2, 32, 320
WIDTH, HEADS, INNER = 64, 2, 128
Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Case:
    """A preset of conf/model, the objective it is trained with, and the same network of `transformers`.

    Args:
        build: the peer, of so many layers.
        loss: what the peer makes of a batch.
    """

    objective: str
    build: Callable[[dict[str, Any], int], nn.Module]
    loss: Callable[[Any, Batch], Tensor]


def bert_sizes(preset: dict[str, Any], layers: int, **more: Any) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "vocab_size": VOCAB,
        "hidden_dropout_prob": preset["hidden_dropout"],
        "attention_probs_dropout_prob": preset["attention_dropout"],
        **more,
    }


def bert(preset: dict[str, Any], layers: int) -> nn.Module:
    return transformers.BertForPreTraining(transformers.BertConfig(**bert_sizes(preset, layers)))


def roberta(preset: dict[str, Any], layers: int) -> nn.Module:
    return transformers.RobertaForMaskedLM(transformers.RobertaConfig(**bert_sizes(preset, layers)))


def gpt2(preset: dict[str, Any], layers: int) -> nn.Module:
    drops = {"resid_pdrop": preset["hidden_dropout"], "embd_pdrop": preset["hidden_dropout"]}
    sizes = {"n_layer": layers, "n_embd": WIDTH, "n_head": HEADS, "vocab_size": VOCAB, "n_positions": LENGTH}
    config = transformers.GPT2Config(**sizes, **drops, attn_pdrop=preset["attention_dropout"])
    return transformers.GPT2LMHeadModel(config)


def llama(preset: dict[str, Any], layers: int) -> nn.Module:
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            num_hidden_layers=layers,
            hidden_size=WIDTH,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS // 2 if preset.get("kv_heads") else HEADS,
            intermediate_size=INNER,
            vocab_size=VOCAB,
        )
    )


def t5(preset: dict[str, Any], layers: int) -> nn.Module:
    gated = preset["activation"] == "geglu"
    config = transformers.T5Config(
        num_layers=layers,
        d_model=WIDTH,
        num_heads=HEADS,
        d_kv=WIDTH // HEADS,
        d_ff=INNER,
        vocab_size=VOCAB,
        dropout_rate=preset["hidden_dropout"],
        feed_forward_proj="gated-gelu" if gated else "relu",
        use_cache=False,
    )
    return transformers.T5ForConditionalGeneration(config)


class ElectraPair(nn.Module):
    """Generator and discriminator, put together as in the paper's code: `transformers` has each alone."""

    def __init__(self, preset: dict[str, Any], layers: int) -> None:
        super().__init__()
        config = transformers.ElectraConfig(**bert_sizes(preset, layers, embedding_size=WIDTH))
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
    return (torch.arange(LENGTH) < batch["lengths"][:, None]).long()


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


def batch_of(objective: str) -> Batch:
    """A microbatch of random tokens, one row in two padded where the objective pads."""
    draw = torch.Generator().manual_seed(0)

    def tokens() -> Tensor:
        return torch.randint(5, VOCAB, (ROWS, LENGTH), generator=draw)

    batch = {"tokens": tokens(), "labels": tokens(), "samples": torch.arange(ROWS)}
    lengths = torch.tensor([LENGTH, LENGTH - 8])
    if objective in ("mlm", "mlm_nsp", "rtd"):
        chosen = torch.rand(ROWS, LENGTH, generator=draw) < 0.15
        batch["labels"] = torch.where(chosen, batch["labels"], -1)
    if objective in ("mlm_nsp", "rtd", "span"):
        batch["lengths"] = lengths
    if objective == "mlm_nsp":
        batch |= {"segments": torch.zeros(ROWS, LENGTH, dtype=torch.long), "pair_labels": torch.tensor([0, 1])}
    if objective == "rtd":
        batch["originals"] = torch.where(torch.arange(LENGTH) < lengths[:, None], tokens(), -1)
    if objective == "span":
        batch["decoder_tokens"] = tokens()
    return batch
