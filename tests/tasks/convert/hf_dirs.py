"""Directories of Hugging Face with random weights, saved by its own classes."""

from pathlib import Path

import torch
import transformers

from tests.ranks.training import VOCAB
from tests.reference.hf import BERT_SIZES, CASES, electra_halves

LABELS = {0: "bad", 1: "fair", 2: "good"}
NAMED = {"id2label": LABELS, "label2id": {label: number for number, label in LABELS.items()}}
ROBERTA_SIZES = {**BERT_SIZES, "max_position_embeddings": 34, "pad_token_id": 1}
#: With the heads of tasks.
TASKS = {
    "bert_sequence": lambda: transformers.BertForSequenceClassification(
        transformers.BertConfig(**BERT_SIZES, **NAMED, problem_type="multi_label_classification")
    ),
    "bert_choice": lambda: transformers.BertForMultipleChoice(transformers.BertConfig(**BERT_SIZES)),
    "roberta_tokens": lambda: transformers.RobertaForTokenClassification(
        transformers.RobertaConfig(**ROBERTA_SIZES, **NAMED)
    ),
    "roberta_sequence": lambda: transformers.RobertaForSequenceClassification(
        transformers.RobertaConfig(**ROBERTA_SIZES, num_labels=1)
    ),
    "electra_span": lambda: transformers.ElectraForQuestionAnswering(
        transformers.ElectraConfig(**BERT_SIZES, embedding_size=48)
    ),
    "electra_choice": lambda: transformers.ElectraForMultipleChoice(
        transformers.ElectraConfig(**BERT_SIZES, embedding_size=64)
    ),
    "gpt2_sequence": lambda: transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(vocab_size=VOCAB, n_positions=32, n_embd=64, n_layer=2, n_head=4, **NAMED)
    ),
    "llama_sequence": lambda: transformers.LlamaForSequenceClassification(
        transformers.LlamaConfig(
            vocab_size=VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, **NAMED
        )
    ),
}

MODELS = {
    **{name: case.build for name, case in CASES.items()},
    "bert_model": lambda: transformers.BertModel(transformers.BertConfig(**BERT_SIZES)),
    "roberta_model": lambda: transformers.RobertaModel(
        transformers.RobertaConfig(**{**BERT_SIZES, "pad_token_id": 1}), add_pooling_layer=False
    ),
    **TASKS,
}


def save(name: str, directory: Path) -> Path:
    """The directory in which Hugging Face saved its model `name` of MODELS, or the two halves of "electra"."""
    torch.manual_seed(7)
    models = (
        dict(zip(("generator", "discriminator"), electra_halves(), strict=True)) if name == "electra" else {"": None}
    )
    for half, model in models.items():
        model = model or MODELS[name]()
        if half != "discriminator":  # which has the embeddings of the other
            disturb(model)
        model.save_pretrained(directory / half)
    return directory


def disturb(model: torch.nn.Module) -> None:
    """Norms and biases are constant at first."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
