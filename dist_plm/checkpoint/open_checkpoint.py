"""Finds the checkpoint that a run goes on from, and sees to it that no damaged one is ever loaded."""

import logging
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch.distributed as dist
from torch import Tensor

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.fragments import Dealer, names_held
from dist_plm.checkpoint.lookup import (
    REMEDY,
    FoundCheckpoint,
    candidates,
    damages,
    decode_train_state,
    locate,
    look_up,
    missed,
    read_train_state,
    reason_of_named,
    unreadable_metadata,
)
from dist_plm.checkpoint.planner import TensorReader
from dist_plm.checkpoint.storage import Storage, open_storage
from dist_plm.checkpoint.train_state import RUN_FILE, TrainState
from dist_plm.config.stored_paths import located
from dist_plm.core.errors import CheckpointError, reason_of
from dist_plm.core.parsing import load_yaml
from dist_plm.distributed.collectives import gather, on_first
from dist_plm.models.sharding import ShardSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint(FoundCheckpoint):
    """One that is complete and, unless that was skipped, verified."""

    @cached_property
    def tensors(self) -> TensorReader:
        reader = self.storage.reader(self.name)
        try:
            return TensorReader(reader, reader.read_metadata())
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise unreadable_metadata(self.where, error) from None

    @property
    def is_weights_only(self) -> bool:
        """Whether it holds no optimizer, not even how far one was."""
        return not self.train_state.engine and not any(name.startswith("optimizer.") for name in self.tensors.tensors)

    @cached_property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the model's logical tensors, by canonical name."""
        tensors = self.tensors.tensors.items()
        return {name.removeprefix("model."): tuple(t.size) for name, t in tensors if name.startswith("model.")}

    def settings(self, name: str) -> dict[str, Any]:
        """Reads a file of settings that it holds.

        Raises:
            CheckpointError: the file is no YAML mapping.
        """
        try:
            content = load_yaml(self.storage.read(self.name, name).decode(), f"{self.where}/{name}")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.where}/{name} cannot be read: {reason_of_named(error)}", REMEDY) from None
        if not isinstance(content, dict):
            raise CheckpointError(f"{self.where}/{name} holds no settings", REMEDY)
        return content

    def run_settings(self) -> dict[str, Any]:
        """Reads the settings of the run that saved it, with paths that lead to the same from here; none where it was imported.

        Raises:
            CheckpointError: the file is no YAML mapping.
        """
        if RUN_FILE not in self.train_state.files:
            return {}
        url = self.storage.url
        return located(self.settings(RUN_FILE), checkpoints=None if "://" in url else url)

    def read(self, shard_spec: ShardSpec, state: str) -> Tensor:
        """fp32 values of `state` ("weight", "exp_avg", …) shaped like shard_spec.parameter, zero where it is padding.

        Raises:
            CheckpointError: the checkpoint does not hold them, or its files cannot be read.
        """
        missing = [n for n in names_held([shard_spec], [state]) if n not in self.tensors.tensors]
        if missing:
            held = sorted({n.split(".")[1] for n in self.tensors.tensors if n.startswith("optimizer.")})
            raise CheckpointError(
                f"{self.where} holds no {missing[0]}; of the optimizer it holds {', '.join(held) or 'nothing'}",
                "give the same optim again, or start anew with train.resume=none",
            )
        try:
            return self.tensors.read(shard_spec, state)
        except OSError as error:
            raise CheckpointError(f"{self.where} cannot be read: {reason_of(error)}", REMEDY) from None

    def check_model(self, shard_specs: Sequence[ShardSpec], group: dist.ProcessGroup | None) -> None:
        """Sees to it that the model is the one that was saved. Collective over `group`, all ranks; of None, where `shard_specs`
        are the whole model's.

        Raises:
            CheckpointError: on every rank, naming weights that differ in shape, are missing or are left over.
        """
        if not self.train_state.engine and not self.is_weights_only:
            raise CheckpointError(
                f"{self.where} holds an optimizer's moments, and its {state_file.NAME} does not tell of how many updates: it "
                f"is not what this program writes",
                REMEDY,
            )
        mine = names_held(shard_specs, ["weight"])
        wanted = {name: shape for held in gather(group, mine) for name, shape in held.items()}
        saved = {n: tuple(m.size) for n, m in self.tensors.tensors.items() if n.startswith("model.")}
        problems = _differences(saved, wanted)
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise CheckpointError(
                f"{self.where} is of another model ({'; '.join(problems[:5])}{more})",
                "give the same model.* again, or start anew with train.resume=none",
            )


def find(resume: str, storage: Storage, group: dist.ProcessGroup | None, *, verify: bool = True) -> Checkpoint | None:
    """Finds what train.resume asks for: the newest usable checkpoint of the run with `auto`, None with `none` or where there
    is none yet, else that at the path or URL. Collective over `group`, all ranks; None is one process alone.

    Raises:
        CheckpointError: on every rank, where the one asked for, or each one found, is missing or damaged, or all are gone.
    """
    if resume == "none":
        return None
    if resume != "auto":
        parent, name = on_first(group, lambda: locate(resume))
        storage = open_storage(parent)
        if name:
            return open_checkpoint(storage, name, group, verify=verify)
    names = on_first(group, lambda: candidates(storage))
    if not names and (lost := on_first(group, lambda: missed(storage))) is not None:
        raise CheckpointError(f"{lost}: they were removed, or lost as one was replaced", REMEDY)
    failures: list[CheckpointError] = []
    for name in names:
        try:
            found = open_checkpoint(storage, name, group, verify=verify)
        except CheckpointError as error:
            failures.append(error)
            log.warning("%s; falling back to the checkpoint before it", error.reason)
            continue
        if failures:
            log.warning("resuming from %s", found.where)
        return found
    if failures:
        told = " · ".join(error.reason for error in failures)
        raise CheckpointError(f"no checkpoint in {storage.where()} can be used: {told}", failures[0].remedy)
    return None


def open_checkpoint(storage: Storage, name: str, group: dist.ProcessGroup | None, *, verify: bool = True) -> Checkpoint:
    """Opens a checkpoint after comparing the size of each of its files, and with `verify` the checksum, with what was
    written; the ranks share the work. Collective over `group`, all ranks.

    Raises:
        CheckpointError: on every rank, naming each file that is missing or damaged.
    """
    data = on_first(group, lambda: read_train_state(storage, name))
    train_state = decode_train_state(data, storage, name)
    found = gather(group, damages(storage, name, _share(train_state, group), train_state, verify=verify))
    problems = sorted(problem for some in found for problem in some)
    if problems:
        raise CheckpointError(f"{storage.where(name)} is damaged: {'; '.join(problems)}", REMEDY)
    return Checkpoint(storage, name, train_state)


def look_at(path: str) -> tuple[Checkpoint, list[str]]:
    """Opens what `look_up` finds at `path`, whatever is wrong with its files, which comes with it."""
    found, problems = look_up(path)
    return Checkpoint(found.storage, found.name, found.train_state), problems


def _share(train_state: TrainState, group: dist.ProcessGroup | None) -> list[str]:
    """The files that this rank looks at: each is one rank's, and all ranks have about as many bytes."""
    rank, dealer = (0, Dealer(1)) if group is None else (group.rank(), Dealer(group.size()))
    largest_first = sorted(train_state.files, key=lambda file: (-train_state.files[file].bytes, file))
    return [file for file in largest_first if dealer.take(train_state.files[file].bytes) == rank]


def _differences(saved: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    return [
        f"{name.removeprefix('model.')}: {_shape(saved.get(name))} in the checkpoint, {_shape(wanted.get(name))} here"
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name)
    ]


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
