"""DeepSpeed's JSON, generated from our configuration, and the check of keys that are handed through to it."""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from dist_plm.config.decode import flatten, show
from dist_plm.config.suggest import did_you_mean, near
from dist_plm.core.errors import ConfigError, reason_of
from dist_plm.core.files import atomic_writer
from dist_plm.engines.engine_settings import EngineSettings

log = logging.getLogger(__name__)

#: Keys that follow from ours, and the setting that decides each. Given by hand they are refused.
OURS: dict[str, str] = {
    "train_batch_size": "train.global_batch",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.global_batch",
    "managed_gradient_accumulation": "train.global_batch",
    "gradient_clipping": "optim.clip_norm",
    "optimizer": "optim",
    "scheduler": "schedule",
    "fp16": "precision",
    "bf16": "precision",
    "data_types": "precision",
    "torch_autocast": "precision",
    "communication_data_type": "precision.reduce_in_fp32",
    "zero_allow_untested_optimizer": "optim",
    "zero_optimization.stage": "engine.zero_stage",
    "zero_optimization.reduce_bucket_size": "engine.bucket_mib",
    "zero_optimization.allgather_bucket_size": "engine.bucket_mib",
    "steps_per_print": "train.log_every",
    "tensorboard": "track",
    "wandb": "track",
}

#: Top-level keys that DeepSpeed reads one by one, without a schema, and what each may be.
PLAIN: dict[str, type] = {
    "prescale_gradients": bool,
    "gradient_predivide_factor": float,
    "disable_allgather": bool,
    "disable_python_gc": bool,
    "dump_state": bool,
    "wall_clock_breakdown": bool,
    "memory_breakdown": bool,
    "zero_force_ds_cpu_optimizer": bool,
}

#: DeepSpeed takes them and is wrong: the map from flat tensors to parameters no longer holds.
UNSOUND = {"zero_optimization.round_robin_gradients": "engine.deepspeed.zero_optimization.round_robin_gradients=false"}


def settings_of(ours: EngineSettings) -> dict[str, Any]:
    """The JSON that `deepspeed.initialize` takes.

    Accumulation over microbatches is ours: each `step` ends one. Gradients add up in fp32 unless the configuration reduces
    them in the model's type.
    """
    assert ours.parallel.data is not None
    precision, engine = ours.precision, ours.engine
    elements = engine.bucket_mib * 2**20 // 4
    reduce = "fp32" if precision.reduce_in_fp32 else precision.weights
    settings: dict[str, Any] = {
        "train_batch_size": ours.train.micro_batch * ours.parallel.data * ours.parallel.context,
        "train_micro_batch_size_per_gpu": ours.train.micro_batch,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": ours.optim.clip_threshold,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**62,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device twice a step
        "data_types": {"grad_accum_dtype": reduce},
        "communication_data_type": reduce,
        "zero_optimization": {
            "stage": engine.zero_stage,
            "reduce_bucket_size": elements,
            "allgather_bucket_size": elements,
            "overlap_comm": False,
        },
    }
    if precision.weights == "bf16":
        settings["bf16"] = {"enabled": True, "immediate_grad_update": True, "check_grad_overflow": True}
    if precision.scales_loss:
        settings["fp16"] = {
            "enabled": True,
            "initial_scale_power": round(math.log2(precision.initial_loss_scale)),
            "loss_scale_window": precision.loss_scale_window,
            "hysteresis": precision.loss_scale_hysteresis,
            "min_loss_scale": precision.min_loss_scale,
        }
    if "offload_optimizer" in engine.own_keys.get("zero_optimization", {}):
        settings["zero_force_ds_cpu_optimizer"] = False  # the configured optimizer steps on the host as well
    return _merged(settings, engine.own_keys)


def on_nvme(own_keys: Mapping[str, Any]) -> list[str]:
    """Names the keys under engine.deepspeed that put something on NVMe."""
    zero = own_keys.get("zero_optimization", {})
    found = (key for key in ("offload_optimizer", "offload_param") if (zero.get(key) or {}).get("device") == "nvme")
    return [f"engine.deepspeed.zero_optimization.{key}.device" for key in found]


def check_extra(extra: Mapping[str, Any], schemas: Mapping[str, type[BaseModel]]) -> None:
    """Checks what `engine.deepspeed` hands through. DeepSpeed itself ignores top-level keys that it does not know.

    Args:
        schemas: DeepSpeed's own, by top-level key.
    Raises:
        ConfigError: with every key that is unknown, decided by another setting, unsound, or of a wrong value.
    """
    problems = []
    for key, value in flatten(extra).items():
        top = key.partition(".")[0]
        decided = next((name for name in (key, top) if name in OURS), None)
        if decided is not None:
            problems.append(f"engine.deepspeed.{key} = {show(value)} is decided by {OURS[decided]}: set that instead")
        elif key in UNSOUND and value:
            problems.append(f"engine.deepspeed.{key} = {show(value)} gives wrong weights here: set {UNSOUND[key]}")
    for top, value in extra.items():
        if top in OURS:
            continue
        if top in schemas:
            problems += _schema_problems(top, value, schemas[top])
        elif top in PLAIN:
            if not isinstance(value, (int, float) if PLAIN[top] is float else PLAIN[top]):
                kind = "a number" if PLAIN[top] is float else "true or false"
                problems.append(f"engine.deepspeed.{top} = {show(value)} is not allowed: it must be {kind}")
        else:
            known = sorted({*schemas, *PLAIN})
            hint = did_you_mean(near(top, known)) or f"; known are {', '.join(known)}"
            problems.append(f"engine.deepspeed.{top} is not a setting of DeepSpeed{hint}")
    if problems:
        raise ConfigError(problems)


def write_settings(settings: Mapping[str, Any], run_dir: str | os.PathLike[str]) -> None:
    """Leaves the JSON in the run directory, for whoever wants to know what DeepSpeed was told; where that cannot be, a line
    says so."""
    path = Path(run_dir) / "deepspeed.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_writer(path) as file:
            file.write(json.dumps(settings, indent=2).encode() + b"\n")
    except OSError as error:  # this rank is not to end while others wait for it
        log.warning("%s cannot be written: %s", path, reason_of(error))


def _schema_problems(top: str, value: Any, schema: type[BaseModel]) -> list[str]:
    if not isinstance(value, Mapping):
        return [f"engine.deepspeed.{top} = {show(value)} is not allowed: it must be settings"]
    try:
        schema(**value)
    except ValidationError as error:
        return [_told(top, value, schema, detail) for detail in error.errors()]
    except (AssertionError, TypeError, ValueError) as error:
        return [f"engine.deepspeed.{top} = {dict(value)} is refused by DeepSpeed: {error}"]
    return []


def _told(top: str, value: Mapping[str, Any], schema: type[BaseModel], detail: Any) -> str:
    path = [str(part) for part in detail["loc"]]
    key = ".".join(["engine.deepspeed", top, *path])
    if detail["type"] == "extra_forbidden":
        fields = schema.model_fields if len(path) == 1 else {}
        names = [name for field, info in fields.items() for name in (field, info.alias) if name]
        return f"{key} = {show(detail['input'])} is not a setting of DeepSpeed{did_you_mean(near(path[-1], names))}"
    return f"{key} = {show(detail.get('input'))} is not allowed: {detail['msg']}"


def _merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in extra.items():
        inner = result.get(key)
        result[key] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return result
