"""Turns checkpoints of Megatron-LM and DeepSpeed into ones that launch/pretrain.py goes on from."""

from pathlib import Path

from dist_plm.checkpoint.foreign import Foreign, Translated, megatron_tensors
from dist_plm.checkpoint.foreign_hf import hf_stored, is_hf
from dist_plm.checkpoint.manifest import Manifest
from dist_plm.checkpoint.megatron_dist import MegatronDist
from dist_plm.checkpoint.storage import name_of, open_storage
from dist_plm.checkpoint.streaming import write_checkpoint
from dist_plm.checkpoint.zero_files import ZeroFiles
from dist_plm.config.decode import encode
from dist_plm.config.runfile import to_yaml
from dist_plm.config.schema_convert import ConvertConfig
from dist_plm.models.megatron_config import megatron_model
from dist_plm.tasks.convert_hf import MODEL_FILE
from dist_plm.tasks.places import fresh_directory, refuse_unless_fresh


def import_megatron(config: ConvertConfig) -> str:
    """Writes the torch_dist checkpoint of a GPT at config.from_ to config.to. Returns what there is to say of it.

    Raises:
        CheckpointError: see `MegatronDist`, `megatron_tensors`; or there is something at config.to already.
    """
    assert config.from_ is not None
    return _write(config, MegatronDist(Path(config.from_), weights_only=config.weights_only))


def import_deepspeed(config: ConvertConfig) -> str:
    """The same of a checkpoint of DeepSpeed under ZeRO 1, 2 or 3, of a GPT of Megatron or a model of Hugging Face."""
    assert config.from_ is not None
    return _write(config, ZeroFiles(Path(config.from_), weights_only=config.weights_only))


def _write(config: ConvertConfig, found: Foreign) -> str:
    assert config.to is not None
    of_hf = is_hf(list(found.shapes))
    if of_hf:
        tensors = hf_stored(found, vocab_size=config.vocab_size)
    else:
        tensors = megatron_tensors(found, kv_heads=config.kv_heads, vocab_size=config.vocab_size)
    translated = Translated(found, tensors)
    model = None if of_hf else megatron_model(found.settings, translated.weights["embedding.word.weight"][0])
    manifest = Manifest(
        step=found.step,
        samples_seen=found.samples or 0,
        engine={"optimizer_steps": found.optimizer_steps} if len(found.states) > 1 else {},
        stream={},
    )
    refuse_unless_fresh(config.to)
    with fresh_directory(config.to) as directory:
        num_bytes = write_checkpoint(
            open_storage(directory),
            manifest,
            translated.shapes,
            translated.read,
            {MODEL_FILE: to_yaml({k: v for k, v in encode(model).items() if v is not None}).encode()}
            if model
            else None,
        )
    held = " and ".join(found.states[1:])
    told = "" if found.samples is None else f", {found.samples:,} samples"
    return "\n".join(
        [
            f"{config.to}: step {found.step:,}{told}, {num_bytes / 1e6:,.1f} MB, {len(translated.weights)} tensors, "
            + (f"for each the optimizer's {held}" if held else "weights alone"),
            *_next(found, translated, config.to, known=model is not None),
        ]
    )


def _next(found: Foreign, translated: Translated, to: str, *, known: bool) -> list[str]:
    """How to go on from it."""
    place = f"{to}/{name_of(found.step)}"
    lines = [f"its model as a file for conf/model/: {place}/{MODEL_FILE}"] if known else []
    if not known:
        word = translated.weights["embedding.word.weight"]
        layers = {name.split(".")[1] for name in translated.weights if name.startswith("layers.")}
        count = f"model.layers={len(layers)} " if layers else ""
        lines.append(f"its model is one of {count}model.hidden={word[1]} model.vocab_size={word[0]}; it tells no more")
    if len(found.states) > 1:
        lines.append(f"go on, over this program's order of samples, with train.resume={to}")
    return lines
