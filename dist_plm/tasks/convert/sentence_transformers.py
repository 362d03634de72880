"""Writes encoders as directories that Sentence-Transformers opens: those of Hugging Face, with what says how a text becomes one
vector."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from dist_plm.checkpoint.open_checkpoint import Checkpoint
from dist_plm.core.errors import CheckpointError
from dist_plm.interop.hf.config_json import HALVES
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.checkpoint_model import model_of_checkpoint
from dist_plm.tasks.convert.huggingface import write_hf

#: Modules of a model, by what each does.
_MODULES = "sentence_transformers.models"
#: What turns vectors of tokens into one, by the names in a pooling module's config.json.
_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
_NAMED = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}


def export_sentence_transformers(config: ConvertConfig) -> str:
    """Makes the encoder in the checkpoint at config.from_ a directory of Sentence-Transformers, config.to.

    Raises:
        CheckpointError: it is damaged or no encoder, its tokenizer is not known, or there is something in config.to already.
    """
    return write_hf(config, partial(_add, config))


def _add(config: ConvertConfig, found: Checkpoint, directory: Path, has_tokenizer: bool) -> str:
    model = model_of_checkpoint(found)
    if not model.is_encoder:
        raise CheckpointError(
            f"{found.where} is no encoder, and model.family = {model.family!r} makes no vectors of texts: give format=hf"
        )
    if not has_tokenizer:
        raise CheckpointError(
            f"{found.where} has no tokenizer that is known, without which no text is read: give format=hf"
        )
    network = HALVES[-1] if (directory / HALVES[-1]).is_dir() else ""
    modules = [
        ("Transformer", network),
        ("Pooling", "1_Pooling"),
        *([("Normalize", "2_Normalize")] if config.normalize else []),
    ]
    _write(
        directory / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"{_MODULES}.{kind}"}
            for number, (kind, path) in enumerate(modules)
        ],
    )
    for _, path in modules[1:]:
        (directory / path).mkdir()
    modes = {f"pooling_mode_{mode}": mode == _NAMED[config.pooling] for mode in _MODES}
    _write(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": model.hidden, **modes})
    longest = {"max_seq_length": model.max_positions, "do_lower_case": False}
    _write(directory / network / "sentence_bert_config.json", longest)
    _write(directory / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    normalized = ", of length 1" if config.normalize else ""
    return f"vectors of {model.hidden:,} numbers{normalized}: {config.pooling} of the last hidden states"


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
