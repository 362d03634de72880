"""Finds the numbers of the samples of a step, as the run itself took them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.lookup import candidates
from dist_plm.checkpoint.storage import open_storage
from dist_plm.core.errors import CheckpointError, UserError, reason_of, with_remedy
from dist_plm.core.parsing import is_number
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.spec.batch_sizes import BatchSizes
from dist_plm.spec.schema_run import TrainConfig

_KNOWS = "it knows which samples the run has skipped: mend it, or move it away where the run has skipped none since"


def history_of(checkpoints: str) -> list[dict[str, Any]]:
    """Reads the history of the newest checkpoint of a run, which holds what it skips; empty where there is none.

    Raises:
        CheckpointError: it cannot be read; one before it may know nothing of what was skipped later.
    """
    storage = open_storage(checkpoints)
    with with_remedy(_KNOWS):
        for name in candidates(storage):
            where = storage.where(name, state_file.NAME)
            try:
                return state_file.decode(storage.read(name, state_file.NAME), where).history
            except FileNotFoundError:  # removed by the run meanwhile, or never completed
                continue
            except OSError as error:
                raise CheckpointError(f"{where} cannot be read: {reason_of(error, where)}", _KNOWS) from None
            except CheckpointError as error:
                raise CheckpointError(error.reason, _KNOWS) from None
    return []


def places_of(step: int, train: TrainConfig, run_dir: Path) -> tuple[int, int]:
    """Counts the samples that the run had taken before and after a step, from the last step before that it recorded.

    Raises:
        UserError: the run has not got as far.
    """
    records = _records_of(run_dir / "metrics.jsonl")
    made = records[-1]["step"] if records else 0
    if step > made + train.log_every:
        raise UserError(f"step = {step} is not made yet: the last step in {run_dir}/metrics.jsonl is {made}")
    known, samples = _last_before(step, records)
    sizes = BatchSizes.of(train)
    before = samples + sum(count * batch for count, batch in sizes.runs(samples, step - 1 - known))
    return before, before + sizes.taken(before)


def _records_of(path: Path) -> list[dict[str, Any]]:
    try:
        records = read_metrics(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason_of(error, path)}") from None
    for record in records:
        if not _is_count(record.get("samples_seen")):
            raise UserError(f"{path}, step {record['step']}, tells no number of samples: it was not written by a run")
    return records


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and is_number(value) and 0 <= value < 2**63


def _last_before(step: int, records: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """The last recorded step before, and the samples taken until then."""
    return max(
        ((record["step"], record["samples_seen"]) for record in records if record["step"] < step), default=(0, 0)
    )
