"""Finds what a path names as a model: its sizes, its weights, how it was trained, and the tokenizer that belongs to it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch.distributed as dist

from dist_plm.checkpoint.open_checkpoint import Checkpoint, find
from dist_plm.checkpoint.storage import open_storage
from dist_plm.config.decode import decode, defaults_of
from dist_plm.core.errors import CheckpointError, ConfigError
from dist_plm.core.installed import typed, typed_setting
from dist_plm.distributed.collectives import on_each, on_first
from dist_plm.interop.hf.checkpoint_tokenizer import given_to, store_of, unset_of
from dist_plm.interop.hf.weights import HFWeights, open_hf
from dist_plm.interop.kinds import NAMES, CheckpointFormat, kind_of
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.spec.schema_run import TrainConfig
from dist_plm.spec.tasks import TaskConfig
from dist_plm.tasks.convert.checkpoint_model import model_of_checkpoint
from dist_plm.tasks.inference.described_task import described_task
from dist_plm.train.startup.load_weights import Weights, of_checkpoint, of_hf

T = TypeVar("T")

#: Of an imported checkpoint, what the directory of Hugging Face said that it was made of.
_SETTINGS = "hf_config.json"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Holds what is known of a model before it is built.

    Args:
        model: as its files tell it.
        objective: by which it was trained, where that is known.
        sequence_length: with which it was trained, likewise.
        settings: its config.json, where it has one.
        store: that its run read, where it is still there.
        tokenizer: file or directory of it that its run was given, likewise.
        columns: of labelled rows, by what the run's files called them.
        unset: what is to be said of variables that the run's store and tokenizer were given by; "" of none.
        step: of a checkpoint, and the settings of its `run`.
    """

    weights: Weights
    model: ModelConfig
    objective: ObjectiveConfig | None = None
    sequence_length: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    store: str | None = None
    tokenizer: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    unset: str = ""
    step: int = 0
    run: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return self.weights.where

    @property
    def packing(self) -> Any:
        """Tells how its run put text into rows."""
        return (self.run.get("data") or {}).get("packing", "concat")

    @property
    def seed(self) -> int:
        """Returns train.seed of its run."""
        return (self.run.get("train") or {}).get("seed", defaults_of(TrainConfig)["seed"])


def find_source(path: str, group: dist.ProcessGroup | None, *, verify: bool = True) -> ModelSource:
    """Finds the model at `path`: a run, a checkpoint or a directory of Hugging Face. Collective over `group`, all ranks.

    Args:
        verify: compare the checksums of a checkpoint, which reads all of it.
    Raises:
        CheckpointError: on every rank, where there is none, it is damaged, or of another kind.
    """
    kind: CheckpointFormat = on_first(group, lambda: kind_of(path))
    if kind == "hf":
        return _of_hf(path, group)
    if kind != "canonical":
        raise CheckpointError(
            f"from = {path} is {NAMES[kind]}: make a checkpoint of it first, with "
            f"{typed('convert')} {typed_setting('from', path)} to=DIR, and give that"
        )
    found = find(path, open_storage(path), group, verify=verify)
    if found is None:
        raise CheckpointError(f"from = {path} holds no checkpoint yet")
    return alike(group, lambda: _of_checkpoint(found))


def alike(group: dist.ProcessGroup | None, work: Callable[[], T]) -> T:
    """Does on each rank what is refused on all of them alike: the first one does it first. Collective.

    Raises:
        CheckpointError: on every rank, where `work` failed.
    """
    done: list[T] = []
    on_first(group, lambda: done.append(work()))
    return done[0] if group is None else on_each(group, lambda: done[0] if done else work())


def with_task(source: ModelSource, given: TaskConfig | None) -> ModelSource:
    """Gives a model whose task no run says the one that it was fine-tuned for.

    Args:
        given: the task with its settings, as a person says it.
    Raises:
        CheckpointError: it has learned another.
    """
    if isinstance(source.objective, TaskConfig):
        if given is not None:
            raise CheckpointError(
                f"task = {given.name!r} has no effect on {source.where}, whose run says its task: leave it out"
            )
        return source
    task = described_task(source.model, source.settings, given, source.where)
    return source if task is None else replace(source, objective=task)


def _of_hf(path: str, group: dist.ProcessGroup | None) -> ModelSource:
    def opened() -> HFWeights:
        weights = open_hf(path)
        if weights.half is not None:
            raise CheckpointError(
                f"from = {path} is the {weights.half} of electra alone: give a directory with both halves"
            )
        weights.check_copies()
        return weights

    weights = alike(group, opened)
    return ModelSource(of_hf(weights), weights.model, settings=next(iter(weights.settings.values())))


def _of_checkpoint(found: Checkpoint) -> ModelSource:
    model, run, files = model_of_checkpoint(found), found.run_settings(), found.train_state.files
    data = run.get("data") or {}
    settings = found.settings(_SETTINGS) if _SETTINGS in files else {}
    return ModelSource(
        of_checkpoint(found),
        model,
        _objective(found, run),
        data.get("sequence_length"),
        settings,
        store_of(run),
        given_to(run),
        data.get("columns") or {},
        unset_of(run),
        found.train_state.step,
        run,
    )


def _objective(found: Checkpoint, run: Mapping[str, Any]) -> ObjectiveConfig | None:
    if "objective" not in run and "task" not in run:
        return None
    try:
        if "objective" in run:
            return decode(ObjectiveConfig, run["objective"], of_before=True)
        return decode(TaskConfig, run["task"], of_before=True)
    except ConfigError as error:
        raise CheckpointError(f"{found.where}: its objective is none of this version: {error}") from None
