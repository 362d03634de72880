"""Writes the adapters of a checkpoint, and the head of a task beside them, as PEFT's `PeftModel.from_pretrained(base, DIR)`
opens them."""

import json
import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dist_plm.checkpoint.finite import is_finite
from dist_plm.checkpoint.fragments import checkpoint_name
from dist_plm.checkpoint.open_checkpoint import Checkpoint, look_at
from dist_plm.core.errors import CheckpointError
from dist_plm.interop.hf.base import HFModel, HFTensor
from dist_plm.interop.hf.registry import hf_model
from dist_plm.spec.families.base import Head, ModelConfig
from dist_plm.spec.families.lora import LoraConfig
from dist_plm.spec.families.tensors import head_of
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.checkpoint_model import model_of_checkpoint
from dist_plm.tasks.convert.directories import fresh_directory, refuse_unless_fresh
from dist_plm.train.startup.load_weights import OVER_VOCABULARY

#: Files of PEFT, and what its names of tensors begin with.
SETTINGS, WEIGHTS, _PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
#: PEFT's names of what a head does, by which it chooses a class of its own. It has none for choices, and that for spans
#: (QUESTION_ANS) leaves `token_type_ids` unread, as of 0.21.2.
_TASK_TYPES: dict[Head, str] = {"sequence": "SEQ_CLS", "tokens": "TOKEN_CLS"}


def export_peft(config: ConvertConfig) -> str:
    """Makes the adapters of the checkpoint at config.from_ a directory of PEFT, config.to, with the head of a task and the rows
    of new tokens.

    Raises:
        CheckpointError: it has no adapters, PEFT has no one base for it, or there is something in config.to.
    """
    assert config.from_ is not None
    assert config.to is not None
    found, model, lora = _with_adapters(config.from_)
    theirs = hf_model(model)
    entries = [entry for entry in theirs.tensors(model, None) if entry.name in found.weights]
    fused: dict[str, list[HFTensor]] = {}
    for entry in entries:
        if _adapter_names(entry)[0] in found.weights:
            fused.setdefault(entry.hf.removesuffix(".weight"), []).append(entry)
    head = frozenset() if model.predicts_tokens else head_of(model)
    grown = found.run_settings().get("model", {}).get("new_rows") is not None
    whole = [e for e in entries if e.name in head or (grown and e.name.startswith(OVER_VOCABULARY))]
    tensors = {f"{_PREFIX}{entry.hf}": _read(found, entry.name) for entry in whole}
    for module, joined in fused.items():
        first, second = _joined(found, joined)
        tensors |= {f"{_PREFIX}{module}.lora_A.weight": first, f"{_PREFIX}{module}.lora_B.weight": second}
    if not all(is_finite(tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{found.where} holds numbers that are not finite: choose an earlier checkpoint")
    told = {
        "task_type": _task_type(model),
        "base_model_name_or_path": model.init_from and os.path.abspath(model.init_from),  # PEFT opens it from anywhere
        "modules_to_save": _modules_of(entries, head) or None,
        **_settings(lora, fused),
    }
    refuse_unless_fresh(config.to)
    with fresh_directory(config.to) as directory:
        save_file(tensors, Path(directory) / WEIGHTS, metadata={"format": "pt"})
        (Path(directory) / SETTINGS).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        compared = _compared(found, Path(directory)) if config.verify else []
    opening = _opening(theirs, model, config.to, grown=grown)
    begun = found.run_settings().get("train", {}).get("init_from")
    base = (
        [] if begun is None else [f"base is what {begun} began with if it has adapters too, else {begun} as format=hf"]
    )
    return "\n".join([f"{config.to}: adapters of {len(fused)} modules, for {opening}", *base, *compared])


def _with_adapters(path: str) -> tuple[Checkpoint, ModelConfig, LoraConfig]:
    """Opens a checkpoint whose adapters PEFT has a base for."""
    found, problems = look_at(path)
    if problems:
        raise CheckpointError(f"{found.where} is damaged: {'; '.join(problems)}: choose another checkpoint")
    model = model_of_checkpoint(found)
    if model.lora is None:
        raise CheckpointError(f"{found.where} has no adapters (model.lora): write the whole model with format=hf")
    if hf_model(model).halves_of(model) != (None,):
        raise CheckpointError(
            f"{found.where} is of two models of Hugging Face, and adapters of PEFT are of one: write both with format=hf"
        )
    return found, model, model.lora


def _task_type(model: ModelConfig) -> str | None:
    if not model.predicts_tokens:
        return _TASK_TYPES.get(model.head)
    return "SEQ_2_SEQ_LM" if model.has_decoder else None if model.is_encoder else "CAUSAL_LM"


def _opening(theirs: HFModel, model: ModelConfig, where: str, *, grown: bool) -> str:
    """Tells how PEFT opens it: on which class, and what has to be done to that before."""
    call = f"peft.PeftModel.from_pretrained(base, {where!r})"
    made = "" if model.predicts_tokens else f", where base is a {theirs.class_with(model.head)}"
    if model.scores_labels:
        made += f" of num_labels={model.num_labels}"
    return call + made + (f", after base.resize_token_embeddings({model.vocab_size})" if grown else "")


def _modules_of(entries: Iterable[HFTensor], head: frozenset[str]) -> list[str]:
    """Names the outermost modules that hold tensors of the head alone."""
    others = {entry.hf for entry in entries if entry.name not in head}
    found: dict[str, None] = {}
    for entry in entries:
        if entry.name in head:
            parts = entry.hf.split(".")
            outer = (".".join(parts[:count]) for count in range(1, len(parts)))
            found[next(name for name in outer if not any(other.startswith(f"{name}.") for other in others))] = None
    return list(found)


def _compared(found: Checkpoint, directory: Path) -> list[str]:
    """Tells how much logits with what was written differ from the checkpoint's; raises CheckpointError where that is much."""
    if find_spec("peft") is None:
        return ["logits not compared: PEFT is not installed"]
    # Imported here, as it brings Transformers in, which verify=false does without.
    from dist_plm.tasks.convert.verify_export import adapters_at, verify_export

    return [verify_export(found, None, adapters_at(directory, found))]


def _adapter_names(entry: HFTensor) -> tuple[str, str]:
    stem = entry.name.removesuffix(".weight")
    return f"{stem}.lora_a", f"{stem}.lora_b"


def _joined(found: Checkpoint, entries: list[HFTensor]) -> tuple[Tensor, Tensor]:
    """Joins A and B of a module in which some of our layers are fused: their ranks follow each other."""
    firsts, seconds = zip(*([_read(found, name) for name in _adapter_names(entry)] for entry in entries), strict=True)
    columns = []
    for entry, second in zip(entries, seconds, strict=True):
        index, count = entry.part or (0, 1)
        whole = torch.zeros(count * len(second), second.shape[1])
        whole[index * len(second) : (index + 1) * len(second)] = second
        columns.append(whole)
    return torch.cat(firsts), torch.cat(columns, dim=1)


def _read(found: Checkpoint, name: str) -> Tensor:
    return found.tensors.read_whole(checkpoint_name("weight", name))


def _settings(lora: LoraConfig, fused: dict[str, list[HFTensor]]) -> dict[str, Any]:
    """Makes what adapter_config.json says. Of fused modules rank and alpha grow alike, so that their ratio stays."""
    several = {module: len(entries) for module, entries in fused.items() if len(entries) > 1}
    return {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "bias": "none",
        "inference_mode": True,
        "target_modules": list(fused),
        "rank_pattern": {module: count * lora.rank for module, count in several.items()},
        "alpha_pattern": {module: count * lora.alpha for module, count in several.items()},
        "fan_in_fan_out": any(entry.transposed for entries in fused.values() for entry in entries),
    }
