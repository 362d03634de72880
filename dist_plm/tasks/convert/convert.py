"""Turns a model between formats: which one lies at a path is told from its files, and each has a module of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dist_plm.checkpoint import manifest as manifests
from dist_plm.checkpoint.storage import LATEST, step_of
from dist_plm.core.errors import CheckpointError
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.tasks.convert.huggingface import export_hf, import_hf
from dist_plm.tasks.convert.importers import import_deepspeed, import_megatron

Kind = Literal["canonical", "hf", "megatron", "deepspeed"]
NAMES: dict[Kind, str] = {
    "canonical": "a checkpoint or run of this program",
    "hf": "a directory of Hugging Face",
    "megatron": "a torch_dist checkpoint of Megatron",
    "deepspeed": "a checkpoint of DeepSpeed",
}


def convert(config: ConvertConfig) -> str:
    """Writes what is at config.from_ to config.to in config.format; returns what there is to say of it.

    Raises:
        CheckpointError: it cannot be read, or cannot be said in that format; then nothing is written.
    """
    assert config.from_ is not None
    kind = kind_of(config.from_)
    task = CONVERSIONS.get((kind, config.format))
    if task is None:
        outcomes = " or ".join(f"format={wanted}" for of, wanted in CONVERSIONS if of == kind)
        raise CheckpointError(
            f"{config.from_} is {NAMES[kind]}, which this version does not convert to format={config.format}"
            + (f"; it can be converted with {outcomes}" if outcomes else "")
        )
    given = [name for name, kinds in _READ_OF.items() if getattr(config, name) and kind not in kinds]
    if given:
        raise CheckpointError(
            f"{', '.join(given)} has no effect on {NAMES[kind]}, which {config.from_} is: leave it out"
        )
    return task(config)


def kind_of(path: str) -> Kind:
    """Tells what lies at `path` by the names of its files.

    Raises:
        CheckpointError: nothing does, or nothing that is known.
    """
    if "://" in path:
        return "canonical"
    place = Path(path)
    if not place.exists():
        raise CheckpointError(
            f"there is nothing at {path}: give the path of a checkpoint, a run or a directory of weights"
        )
    place = place.parent if place.name == LATEST and place.is_file() else place
    for kind, signs in _SIGNS.items():
        if signs(place):
            return kind
    raise CheckpointError(
        f"{path} is no checkpoint that is known: it holds neither {manifests.NAME} nor a run's checkpoints/{LATEST}, nor a "
        "config.json beside *.safetensors, nor what Megatron or DeepSpeed write"
    )


def _is_canonical(place: Path) -> bool:
    latest = (place / LATEST, place / "checkpoints" / LATEST)
    return (place / manifests.NAME).exists() or any(step_of(_text(path)) is not None for path in latest)


def _is_hf(place: Path) -> bool:
    halves = (place, place / "generator", place / "discriminator")
    return place.suffix == ".safetensors" or any(
        (half / "config.json").exists() or any(half.glob("*.safetensors")) or any(half.glob("pytorch_model*.bin"))
        for half in halves
    )


def _is_megatron(place: Path) -> bool:
    names = ("latest_checkpointed_iteration.txt", "metadata.json")
    return any((place / name).exists() for name in names) or ((place / ".metadata").exists())


def _is_deepspeed(place: Path) -> bool:
    return (
        (place / "zero_to_fp32.py").exists()
        or _text(place / LATEST).startswith("global_step")
        or any(place.glob("*model_states.pt"))
        or any(place.glob("*optim_states.pt"))
    )


_SIGNS: dict[Kind, Callable[[Path], bool]] = {
    "canonical": _is_canonical,
    "deepspeed": _is_deepspeed,  # beside which trainers save the config.json of the model
    "hf": _is_hf,
    "megatron": _is_megatron,
}


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip() if path.is_file() else ""


#: Of what a setting is read.
_READ_OF: dict[str, tuple[Kind, ...]] = {
    "vocab_size": ("megatron", "deepspeed"),
    "kv_heads": ("megatron", "deepspeed"),
    "weights_only": ("megatron", "deepspeed"),
    "hf_config": ("deepspeed",),
}

#: What is made of what: (what lies at `from`, `format`) -> the function that does it.
CONVERSIONS: dict[tuple[Kind, str], Callable[[ConvertConfig], str]] = {
    ("hf", "canonical"): import_hf,
    ("canonical", "hf"): export_hf,
    ("megatron", "canonical"): import_megatron,
    ("deepspeed", "canonical"): import_deepspeed,
}
