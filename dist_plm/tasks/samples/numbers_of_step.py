"""Finds the numbers of the samples of a step, as the run itself took them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.lookup import candidates
from dist_plm.checkpoint.storage import open_storage
from dist_plm.core.errors import CheckpointError, UserError
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.schema_run import TrainConfig


def history_of(checkpoints: str) -> list[dict[str, Any]]:
    """Reads the history of the newest checkpoint of a run, which holds what it skips; empty where there is none that can be
    read."""
    storage = open_storage(checkpoints)
    for name in candidates(storage):
        try:
            return state_file.decode(storage.read(name, state_file.NAME), storage.where(name)).history
        except (OSError, CheckpointError):
            continue
    return []


def places_of(step: int, train: TrainConfig, run_dir: Path) -> tuple[int, int]:
    """Counts the samples that the run had taken before and after a step, from the last step before that it recorded.

    Raises:
        UserError: the run has not got as far.
    """
    records = read_metrics(run_dir / "metrics.jsonl") if (run_dir / "metrics.jsonl").exists() else []
    made = records[-1]["step"] if records else 0
    if step > made + train.log_every:
        raise UserError(f"step = {step} is not made yet: the last step in {run_dir}/metrics.jsonl is {made}")
    known, samples = _last_before(step, records)
    sizes = BatchSizes.of(train)
    before = samples + sum(count * batch for count, batch in sizes.runs(samples, step - 1 - known))
    return before, before + sizes.taken(before)


def _last_before(step: int, records: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """The last recorded step before, and the samples taken until then."""
    return max(
        ((record["step"], record["samples_seen"]) for record in records if record["step"] < step), default=(0, 0)
    )
