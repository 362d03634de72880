"""Finds the numbers of the samples of a step, as the run itself took them."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_plm.checkpoint import train_state as state_file
from dist_plm.checkpoint.lookup import candidates
from dist_plm.checkpoint.storage import open_storage
from dist_plm.core.errors import CheckpointError, UserError, reason_of, with_remedy
from dist_plm.core.parsing import is_number
from dist_plm.monitor.metrics_file import begun_after, read_metrics
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


def places_of(step: int, train: TrainConfig, run_dir: Path, history: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Counts the samples that the run had taken before and after a step, from the nearest step that it recorded.

    Args:
        history: see `history_of`.
    Raises:
        UserError: the run has not got as far, or made the step not itself, or over another stream of samples.
    """
    records = _records_of(run_dir / "metrics.jsonl")
    made = records[-1]["step"] if records else 0
    if step > made + train.log_every:
        raise UserError(f"step = {step} is not made yet: the last step in {run_dir}/metrics.jsonl is {made}")
    begun, (changed, changes) = begun_after(run_dir), _last_change(history)
    if step <= begun:
        raise UserError(
            f"step = {step} is none of {run_dir}, which goes on from step {begun} of another run's checkpoint: name that run"
        )
    if step <= changed:
        raise UserError(
            f"step = {step} was made over another stream of samples than {run_dir}/run.yaml tells of: it changed after step "
            f"{changed} ({'; '.join(changes)}). Ask for a step from {changed + 1} on"
        )
    sizes = BatchSizes.of(train)
    known, samples = _known_before(step, max(begun, changed), records, sizes)
    before = samples + _taken(sizes, samples, step - 1 - known)
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


def _last_change(history: Sequence[Mapping[str, Any]]) -> tuple[int, Sequence[str]]:
    """After which step another stream of samples was last allowed, and what changed; (0, ()) where none was."""
    for entry in reversed(history):
        changes = [str(one) for one in entry.get("changes", ()) if not str(one).startswith(state_file.MASKS)]
        if changes and not {"heal", "skipped"} & entry.keys():
            return entry["step"], changes
    return 0, ()


def _known_before(step: int, start: int, records: Sequence[Mapping[str, Any]], sizes: BatchSizes) -> tuple[int, int]:
    """Finds the last step before that is recorded, but none before `start`, which other batches may have led to, and the
    samples taken until then.

    Raises:
        UserError: it is not recorded yet.
    """
    known = [(record["step"], record["samples_seen"]) for record in records]
    before = [one for one in known if start <= one[0] < step]
    if before:
        return max(before)
    if start == 0:
        return 0, 0
    after = [one for one in known if one[0] >= step]
    if not after:
        raise UserError(f"the samples of step = {step} are known once the run has logged it, or one after it")
    last, samples = min(after)
    if samples == sizes.total:  # the last step may be short
        samples = -(-samples // sizes.whole) * sizes.whole
    return start, bisect_left(range(samples), samples, key=lambda seen: seen + _taken(sizes, seen, last - start))


def _taken(sizes: BatchSizes, samples: int, steps: int) -> int:
    """Counts the samples of some steps, none of them short, before which so many have been seen."""
    return sum(count * batch for count, batch in sizes.runs(samples, steps))
