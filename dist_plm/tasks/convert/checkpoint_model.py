"""Reads what a checkpoint says of its model, its task and its run, whichever of its files says it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dist_plm.checkpoint.open_checkpoint import Checkpoint
from dist_plm.checkpoint.train_state import RUN_FILE
from dist_plm.config.decode import decode
from dist_plm.core.errors import CheckpointError, ConfigError
from dist_plm.interop.hf.base import Half, with_head_of
from dist_plm.interop.hf.config_json import CONFIG_FILE, named_labels
from dist_plm.interop.hf.registry import hf_model
from dist_plm.spec.schema import ModelConfig
from dist_plm.spec.tasks import TaskConfig
from dist_plm.train.startup.load_weights import MODEL_FILE


def config_name(half: Half | None) -> str:
    """Names the config.json of a model, or of a half of electra, within a checkpoint."""
    return f"hf_{CONFIG_FILE}" if half is None else f"hf_{half}_{CONFIG_FILE}"


def model_of_checkpoint(found: Checkpoint) -> ModelConfig:
    """Finds the model: an imported checkpoint's own file, else the run's, without how rows of new tokens began.

    Raises:
        CheckpointError: neither is there, or it fits no model of this version.
    """
    for name in (MODEL_FILE, RUN_FILE):
        if name in found.train_state.files:
            settings = found.settings(name) if name == MODEL_FILE else found.run_settings().get("model", {})
            try:
                model = replace(decode(ModelConfig, settings, of_before=True), new_rows=None)
                return _with_head(found, model)
            except ConfigError as error:
                raise CheckpointError(f"{found.where}/{name} fits no model of this version: {error}") from None
    raise CheckpointError(
        f"{found.where} holds neither {MODEL_FILE} nor {RUN_FILE}, so its model is not known: where it came from a "
        "checkpoint of DeepSpeed of a model of Hugging Face, convert that again with hf_config=DIR, the directory of its "
        "config.json"
    )


def _with_head(found: Checkpoint, model: ModelConfig) -> ModelConfig:
    """Gives the model of an imported checkpoint the head that its config.json names."""
    name = config_name(None)
    if name not in found.train_state.files:
        return model
    return with_head_of(model, hf_model(model), json.loads(found.storage.read(found.name, name)))


def task_settings(run: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Makes what a config.json tells of the task of a run: the names of its labels, and the kind of problem. Of a run without a
    task nothing.

    Raises:
        CheckpointError: it is no task of this version.
    """
    task = task_of_run(run, where)
    if task is None:
        return {}
    settings: dict[str, Any] = named_labels(task.label_names) if task.label_names else {}
    return settings | ({"problem_type": task.problem_type} if task.problem_type is not None else {})


def task_of_run(run: Mapping[str, Any], where: str) -> TaskConfig | None:
    """Reads the task of a run; None where it has none.

    Raises:
        CheckpointError: it is no task of this version.
    """
    if "task" not in run:
        return None
    try:
        return decode(TaskConfig, run["task"], of_before=True)
    except ConfigError as error:
        raise CheckpointError(f"{where}/{RUN_FILE} has no task of this version: {error}") from None
