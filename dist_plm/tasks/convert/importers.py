"""Turns checkpoints of Megatron-LM and DeepSpeed into ones that launch/pretrain.py goes on from."""

from dataclasses import replace
from pathlib import Path

from dist_plm.checkpoint.storage import name_of, open_storage
from dist_plm.checkpoint.streaming import write_checkpoint
from dist_plm.checkpoint.train_state import TrainState
from dist_plm.config.decode import encode
from dist_plm.config.runfile import to_yaml
from dist_plm.core.errors import CheckpointError, count_of
from dist_plm.core.installed import typed_setting
from dist_plm.interop.base import ForeignCheckpoint, Translated, megatron_tensors
from dist_plm.interop.deepspeed.hf_tensors import hf_stored, is_hf, model_of
from dist_plm.interop.deepspeed.zero_files import ZeroFiles
from dist_plm.interop.hf.base import HEADS
from dist_plm.interop.hf.config_json import CONFIG_FILE, described_at
from dist_plm.interop.hf.registry import hf_model
from dist_plm.interop.hf.safetensors_files import listed
from dist_plm.interop.megatron.arguments import megatron_model
from dist_plm.interop.megatron.dist_checkpoint import MegatronDist
from dist_plm.spec.families.tensors import shapes_of
from dist_plm.spec.schema import ModelConfig
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.directories import as_path, fresh_directory, refuse_unless_fresh
from dist_plm.train.startup.load_weights import MODEL_FILE


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


def _write(config: ConvertConfig, found: ForeignCheckpoint) -> str:
    assert config.to is not None
    of_hf = is_hf(list(found.shapes))
    if of_hf:
        tensors = hf_stored(found, vocab_size=config.vocab_size)
    else:
        tensors = megatron_tensors(found, kv_heads=config.kv_heads, vocab_size=config.vocab_size)
    translated = Translated(found, tensors)
    model = (_described if of_hf else _of_megatron)(config, found, translated)
    train_state = TrainState(
        step=found.step,
        samples_seen=found.samples or 0,
        engine={"optimizer_steps": found.optimizer_steps} if len(found.states) > 1 else {},
        stream={},
    )
    refuse_unless_fresh(config.to)
    with fresh_directory(config.to) as directory:
        num_bytes = write_checkpoint(
            open_storage(directory),
            train_state,
            translated.shapes,
            translated.read,
            model and {MODEL_FILE: to_yaml({k: v for k, v in encode(model).items() if v is not None}).encode()},
        )
    held = " and ".join(found.states[1:])
    told = "" if found.samples is None else f", {count_of(found.samples, 'sample', ',')}"
    return "\n".join(
        [
            f"{config.to}: step {found.step:,}{told}, {num_bytes / 1e6:,.1f} MB, "
            f"{count_of(len(translated.weights), 'tensor')}, "
            + (f"for each the optimizer's {held}" if held else "weights alone"),
            *_next(found, translated, config.to, known=model is not None, of_hf=of_hf),
        ]
    )


def _of_megatron(config: ConvertConfig, found: ForeignCheckpoint, translated: Translated) -> ModelConfig | None:
    if config.hf_config is not None:
        raise CheckpointError(
            f"hf_config has no effect on {found.where}, which is of a model of Megatron: leave it out"
        )
    return megatron_model(found.settings, translated.weights["embedding.word.weight"][0])


def _described(config: ConvertConfig, found: ForeignCheckpoint, translated: Translated) -> ModelConfig | None:
    """The model of Hugging Face, where a config.json tells more of it than names and shapes do.

    Raises:
        CheckpointError: it tells of another.
    """
    assert config.from_ is not None
    path = config.hf_config or (config.from_ if (Path(config.from_) / CONFIG_FILE).exists() else None)
    if path is None:
        return None
    rows = translated.weights["embedding.word.weight"][0]
    model, family = replace(described_at(path), vocab_size=rows), model_of(found.shapes).family
    if model.family != family:
        raise CheckpointError(f"{found.where} is of a model of family {family}, {path}/{CONFIG_FILE} of {model.family}")
    theirs = hf_model(model)
    wanted = shapes_of(theirs.with_all_heads(model))
    problems = [
        f"{name} is missing" for name in wanted if name not in translated.weights and not name.startswith(HEADS)
    ]
    problems += [
        f"{name} is {list(shape)}" + (f", there {list(wanted[name])}" if name in wanted else ", which it does not have")
        for name, shape in translated.weights.items()
        if wanted.get(name) != shape
    ]
    if problems:
        raise CheckpointError(f"{found.where} is of another model than {path}/{CONFIG_FILE}: {listed(problems)}")
    return model


def _next(found: ForeignCheckpoint, translated: Translated, to: str, *, known: bool, of_hf: bool) -> list[str]:
    """How to go on from it."""
    place = f"{to}/{name_of(found.step)}"
    lines = [f"its model as a file for conf/model/: {place}/{MODEL_FILE}"] if known else []
    if not known:
        word = translated.weights["embedding.word.weight"]
        layers = {name.split(".")[1] for name in translated.weights if name.startswith("layers.")}
        count = f"model.layers={len(layers)} " if layers else ""
        again = f": convert again with hf_config=DIR, where its {CONFIG_FILE} is, for that" if of_hf else ""
        lines.append(
            f"its model is one of {count}model.hidden={word[1]} model.vocab_size={word[0]}; it tells no more, and cannot be "
            f"exported{again}"
        )
    if len(found.states) > 1:
        lines.append(f"go on, over this program's order of samples, with {typed_setting('train.resume', as_path(to))}")
    return lines
