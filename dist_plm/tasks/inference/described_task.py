"""Tells the task that a model of Hugging Face was fine-tuned for, by its class and config.json, and by what is given."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dist_plm.core.errors import CheckpointError
from dist_plm.interop.hf.base import labels_of
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.tasks import TASKS, TaskConfig
from dist_plm.spec.tasks.base import LabelsConfig


def described_task(
    model: ModelConfig, settings: Mapping[str, Any], given: TaskConfig | None, where: str
) -> TaskConfig | None:
    """Finds the task of a model; None where neither its class nor `given` tells one.

    Args:
        settings: its config.json.
        given: the task with settings of its own, as a person gives it.
        where: how messages call the model.
    Raises:
        CheckpointError: `given` is not what the model has learned.
    """
    problem = settings.get("problem_type")
    task = given or _of_head(model, problem or ("regression" if model.num_labels == 1 else None))
    if task is None:
        return None
    if not task.suits(model) or task.head_of(model) != model.head:
        fits = [name for name, one in TASKS.items() if one.suits(model) and one.head_of(model) == model.head]
        named = " or ".join(f"task={name}" for name in fits)
        raise CheckpointError(f"task = {task.name!r} is not what {where} has a head for: give {named}")
    if problem is not None and task.problem_type not in (None, problem):
        raise CheckpointError(
            f"task.name = {task.name!r} as given is {task.problem_type}, where the config.json of {where} has problem_type = "
            f"{problem!r}: leave task out"
        )
    if not isinstance(task, LabelsConfig):
        return task
    if model.predicts_tokens:
        if not task.labels:
            raise CheckpointError(
                f"{where} writes labels, and nothing tells which: name them, as in task.labels=[no,yes]"
            )
        return task
    return _with_labels(task, settings, where)


def _of_head(model: ModelConfig, problem: str | None) -> TaskConfig | None:
    if model.predicts_tokens:
        return None
    tasks = (task.of_problem(problem) for task in TASKS.values() if task.head == model.head)
    return next((task for task in tasks if task is not None), None)


def _with_labels(task: LabelsConfig, settings: Mapping[str, Any], where: str) -> TaskConfig:
    """Gives a task the labels of a config.json, those that it only numbers by their numbers."""
    names = tuple(str(number) if name == f"LABEL_{number}" else name for number, name in enumerate(labels_of(settings)))
    if task.labels and len(task.labels) != len(names):
        raise CheckpointError(
            f"task.labels names {len(task.labels)} labels, and {where} scores {len(names)}: {', '.join(names)}"
        )
    return task if task.labels else replace(task, labels=names)
