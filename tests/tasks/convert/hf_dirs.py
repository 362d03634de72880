"""Directories of Hugging Face with random weights, saved by its own classes."""

from pathlib import Path

import torch
import transformers

from tests.reference.hf import BERT_SIZES, CASES, electra_halves

MODELS = {
    **{name: case.build for name, case in CASES.items()},
    "bert_model": lambda: transformers.BertModel(transformers.BertConfig(**BERT_SIZES)),
    "roberta_model": lambda: transformers.RobertaModel(
        transformers.RobertaConfig(**{**BERT_SIZES, "pad_token_id": 1}), add_pooling_layer=False
    ),
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
