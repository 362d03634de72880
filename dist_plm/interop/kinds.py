"""Tells what lies at a path, by the names of its files: a checkpoint of this program, or of which other one."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.storage import BEST, LATEST, step_of
from dist_plm.core.errors import CheckpointError, reason_of
from dist_plm.core.installed import typed, typed_setting
from dist_plm.core.marks import mark_path

CheckpointFormat = Literal["canonical", "hf", "megatron", "deepspeed"]
NAMES: dict[CheckpointFormat, str] = {
    "canonical": "a checkpoint or run of this program",
    "hf": "a directory of Hugging Face",
    "megatron": "a torch_dist checkpoint of Megatron",
    "deepspeed": "a checkpoint of DeepSpeed",
}


def kind_of(path: str) -> CheckpointFormat:
    """Tells what lies at `path` by the names of its files.

    Raises:
        CheckpointError: nothing does, or nothing that is known.
    """
    if (kind := _kind_at(path)) is not None:
        return kind
    if not Path(path).exists():
        raise CheckpointError(
            f"there is nothing at {path}: give the path of a checkpoint, a run or a directory of weights"
        )
    raise CheckpointError(
        f"{path} is no checkpoint that is known: it holds neither {state_file.NAME} nor a run's checkpoints/{LATEST}, nor a "
        "config.json beside *.safetensors, nor what Megatron or DeepSpeed write"
    )


def refuse_foreign(path: str) -> None:
    """Refuses what other programs wrote at `path`, where a checkpoint of this one is needed.

    Raises:
        CheckpointError: with the way by which a run can begin with it.
    """
    kind = _kind_at(path)
    if kind is None or kind == "canonical":
        return
    remedy = (
        f"make a checkpoint of it first, with {typed('convert')} {typed_setting('from', path)} to=DIR, and give that"
    )
    if kind == "hf":
        remedy = f"begin with its weights by {typed_setting('model.init_from', path)}"
    raise CheckpointError(f"{path} is {NAMES[kind]}", remedy)


def refuse_own(path: str) -> None:
    """Refuses a checkpoint of this program at `path`, where a directory of Hugging Face is needed.

    Raises:
        CheckpointError: with the way by which a run can begin with it.
    """
    if "://" not in path and _kind_at(path) == "canonical":
        raise CheckpointError(
            f"{path} is {NAMES['canonical']}",
            f"begin with its weights by {typed_setting('train.init_from', path)} (train.init_optimizer=none for them alone), "
            f"or, where the head becomes another, with what {typed('convert')} {typed_setting('from', path)} to=DIR format=hf "
            "writes",
        )


def _kind_at(path: str) -> CheckpointFormat | None:
    if "://" in path:
        return "canonical"
    place = Path(path)
    try:
        place = place.parent if place.name in (LATEST, BEST) and place.is_file() else place
        if (place / "adapter_config.json").exists() and not (place / "config.json").exists():
            raise CheckpointError(
                f"{path} holds adapters of PEFT, which are no model by themselves",
                "give the run that they came from, or what PEFT saves after merge_and_unload()",
            )
        return next((kind for kind, signs in _SIGNS.items() if signs(place)), None)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be looked into: {reason_of(error, path)}") from None


def _is_canonical(place: Path) -> bool:
    latest = (place / LATEST, place / "checkpoints" / LATEST)
    if (place / state_file.NAME).exists() or mark_path(place, "checkpoint").exists():
        return True
    return any(step_of(_text(path)) is not None for path in latest)


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


_SIGNS: dict[CheckpointFormat, Callable[[Path], bool]] = {
    "canonical": _is_canonical,
    "deepspeed": _is_deepspeed,  # beside which trainers save the config.json of the model
    "hf": _is_hf,
    "megatron": _is_megatron,
}


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip() if path.is_file() else ""
