"""Writes the adapters of a checkpoint alone, as PEFT's `PeftModel.from_pretrained(base, DIR)` opens them."""

import json
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
from dist_plm.interop.hf.base import HFTensor
from dist_plm.interop.hf.registry import hf_model
from dist_plm.models.sharding import Shard
from dist_plm.spec.families.lora import LoraConfig
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.checkpoint_model import model_of_checkpoint
from dist_plm.tasks.convert.directories import fresh_directory, refuse_unless_fresh

#: Files of PEFT, and what its names of tensors begin with.
SETTINGS, WEIGHTS, _PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."


def export_peft(config: ConvertConfig) -> str:
    """Makes the adapters of the checkpoint at config.from_ a directory of PEFT, config.to.

    Raises:
        CheckpointError: it has none, or those of a task, whose head they would lack, or there is something in config.to.
    """
    assert config.from_ is not None
    assert config.to is not None
    found, problems = look_at(config.from_)
    if problems:
        raise CheckpointError(f"{found.where} is damaged: {'; '.join(problems)}: choose another checkpoint")
    model = model_of_checkpoint(found)
    if model.lora is None:
        raise CheckpointError(f"{found.where} has no adapters (model.lora): write the whole model with format=hf")
    if not model.predicts_tokens:
        raise CheckpointError(f"{found.where} has a head beside its adapters: write the whole model with format=hf")
    fused: dict[str, list[HFTensor]] = {}
    for entry in hf_model(model).tensors(model, None):
        if _adapter_names(entry)[0] in found.weights:
            fused.setdefault(entry.hf.removesuffix(".weight"), []).append(entry)
    tensors: dict[str, Tensor] = {}
    for module, entries in fused.items():
        first, second = _joined(found, entries)
        tensors |= {f"{_PREFIX}{module}.lora_A.weight": first, f"{_PREFIX}{module}.lora_B.weight": second}
    if not all(is_finite(tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{found.where} holds numbers that are not finite: choose an earlier checkpoint")
    refuse_unless_fresh(config.to)
    with fresh_directory(config.to) as directory:
        save_file(tensors, Path(directory) / WEIGHTS, metadata={"format": "pt"})
        kind = "SEQ_2_SEQ_LM" if model.has_decoder else "CAUSAL_LM" if not model.is_encoder else None
        told = {"task_type": kind, "base_model_name_or_path": model.init_from, **_settings(model.lora, fused)}
        (Path(directory) / SETTINGS).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        compared = _compared(found, Path(directory)) if config.verify else []
    told = f"{config.to}: adapters of {len(fused)} modules, for peft.PeftModel.from_pretrained(base, {config.to!r})"
    return "\n".join([told, *compared])


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
    tensor = torch.empty(found.weights[name])
    shape, zeros = tuple(tensor.shape), (0, 0)
    found.tensors.read_shards([(checkpoint_name("weight", name), Shard(name, shape, zeros, zeros, shape), tensor)])
    return tensor


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
