"""`metrics.jsonl`: one JSON object per logged step, each step once however often the run was killed.

Every line is whole and valid JSON. A number that is not finite is written as null and named under `nonfinite`, from
where `read_metrics` restores it. Other nulls mean "does not apply" (no loss scale outside fp16) or "not known" (no
MFU on an unknown device).
"""

import errno
import glob
import itertools
import json
import logging
import math
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from dist_plm.core.errors import reason_of
from dist_plm.core.files import atomic_writer, open_to_append
from dist_plm.core.parsing import is_number, load_json
from dist_plm.core.regular import read_regular

log = logging.getLogger(__name__)

EVAL_PREFIX = "eval/"
HEAL_PREFIX = "heal/"
#: Beside metrics.jsonl: after which step each start of the run went on.
RESUMES = "resumes.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """Holds what is known after an update. Plain Python numbers.

    Args:
        step: updates made so far, this one included.
        loss: mean over the tokens of this step's global batch, in nats; with several parts, their weighted sum.
        terms: the parts of the loss by name, where it has several.
        lr: the rate this update used.
        grad_norm: of the global gradient before clipping; None where the update was skipped.
        tokens_seen, samples_seen: since the first step of the run.
        tokens_per_second, step_seconds, mfu: over the steps since the previous record, without evaluation and saving.
        loss_scale: None unless the precision is fp16.
        skipped: updates skipped since the previous record because gradients were not finite.
        skipped_share: of the steps since the previous record.
        memory_gib: the most of a GPU's memory that tensors have held at once; None on the CPU.
        worst: the `loss` of the microbatch that has the largest of this step, and numbers of its `first_sample` and
            `last_sample`.
        evaluation: held-out measures at this step, without their prefix, e.g. loss, perplexity, accuracy.
        heal: what self-healing did or told since the previous record, without their prefix: `rollbacks` of the run so far,
            the bad step `noticed`, the `step` gone back to, `skipped_samples` in all, `worst_loss`, `worst_first_sample` and
            `worst_last_sample` of the bad step; `alarms` that the run went on from.
        observed: what was looked at since the previous record, at intervals of its own, e.g. step_parts/forward.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float | None
    tokens_seen: int
    samples_seen: int
    tokens_per_second: float
    step_seconds: float
    mfu: float | None
    loss_scale: float | None
    skipped: int
    skipped_share: float = 0.0
    memory_gib: float | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    worst: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, float] = field(default_factory=dict)
    heal: Mapping[str, float] = field(default_factory=dict)
    observed: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, float | int | None]:
        """The fields under their names in the file; parts of the loss as `loss/*`, evaluation measures as `eval/*`, acts of
        self-healing as `heal/*`."""
        return {
            "step": self.step,
            "loss": self.loss,
            "lr": self.lr,
            "grad_norm": self.grad_norm,
            "tokens_seen": self.tokens_seen,
            "samples_seen": self.samples_seen,
            "tokens_per_second": self.tokens_per_second,
            "step_seconds": self.step_seconds,
            "mfu": self.mfu,
            "loss_scale": self.loss_scale,
            "skipped": self.skipped,
            "skipped_share": self.skipped_share,
            **({} if self.memory_gib is None else {"memory_gib": self.memory_gib}),
            **{f"loss/{name}": value for name, value in self.terms.items()},
            **{f"worst/{name}": value for name, value in self.worst.items()},
            **{EVAL_PREFIX + name: value for name, value in self.evaluation.items()},
            **{HEAL_PREFIX + name: value for name, value in self.heal.items()},
            **self.observed,
        }


class MetricsWriter:
    """Appends records to a metrics file. One writer a run: rank 0's.

    Args:
        path: the file; its directory is made.
        resume_step: the step the run continues from. Records of later steps are dropped, as these steps are taken
            again, and so is a line torn by a kill; the old file stays until the new one is complete.
        guard: called before each record; what it raises keeps that from being written. An OSError puts it off.
    """

    def __init__(self, path: Path, *, resume_step: int = 0, guard: Callable[[], None] = lambda: None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _keep_until(path, resume_step, guard)
        self._path, self._guard = path, guard
        self._file = open_to_append(path, readable=True)
        self._pending: list[bytes] = []
        self._last_kept = math.inf  # the step after which records in the file are yet to go

    def write(self, record: StepRecord) -> None:
        """Appends one line in a single system call, so that a reader never waits for the rest of one. What the disk does not
        take is kept in memory until it does."""
        self._pending.append(_encode(record.as_dict()))
        was_behind = len(self._pending) > 1
        try:
            self._guard()
            self._cut()
            self._restore_if_deleted()
            self._append()
        except OSError as error:
            if not was_behind:
                log.warning(
                    "%s cannot be written (%s): records are kept in memory and written later",
                    self._path,
                    reason_of(error, self._path),
                )
            return
        if was_behind:
            log.warning("%s is written again, with all that was kept", self._path)

    def rewind(self, step: int) -> None:
        """Drops the records after a step, which are made again. That takes no room on the disk; no other writer has this file,
        as each begins with one of its own. A disk that fails puts it off."""
        with suppress(OSError):  # it is asked again at the next record
            self._guard()
        self._pending = _until(b"".join(self._pending), step)
        self._last_kept = min(step, self._last_kept)
        with suppress(OSError):  # it is done before the next record, and a failure told then
            self._cut()

    def close(self) -> None:
        """Closes the file; where the disk does not take what was kept for it, that is lost, and told."""
        try:
            self._cut()
            self._append()
        except OSError as error:
            log.error("%s lacks its last %d records: %s", self._path, len(self._pending), reason_of(error, self._path))
        self._file.close()

    def _cut(self) -> None:
        if self._last_kept < math.inf:
            size = os.fstat(self._file.fileno()).st_size
            self._file.truncate(len(b"".join(_until(os.pread(self._file.fileno(), size, 0), self._last_kept))))
            self._last_kept = math.inf

    def _append(self) -> None:
        before = os.fstat(self._file.fileno()).st_size
        try:
            lines = b"".join(self._pending)
            if self._file.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._pending.clear()
        except OSError:
            self._file.truncate(before)  # no line stays torn
            raise

    def _restore_if_deleted(self) -> None:
        """Makes the file anew with all its records where somebody removed it; not where a later start replaced it."""
        if os.fstat(self._file.fileno()).st_nlink or os.path.lexists(self._path):
            return
        fresh = open_to_append(self._path, readable=True)
        content = os.pread(self._file.fileno(), os.fstat(self._file.fileno()).st_size, 0)
        self._pending.insert(0, content)
        self._file.close()
        self._file = fresh
        log.warning("%s was removed, and is made anew with the records that it held", self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def run_directory(path: str, told: str | None = None) -> Path | None:
    """Finds the directory of a run, which has a file of metrics; None where there is none.

    Args:
        path: of the run, of its checkpoints, or of one of them.
        told: where the run said that its directory is.
    """
    named = Path(path).absolute()
    places = [named, *list(named.parents)[:2], *([Path(told)] if told else [])]
    return next((place for place in places if (place / "metrics.jsonl").is_file()), None)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file in the order written, values that are not finite restored as floats.

    Lines that are no record (the last one of a killed run may be torn) are left out with a warning in the log.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return [record for _, record in _records(path)]


def begun_after(run_dir: Path) -> int:
    """Tells after which step a run made its first one: that of another run's checkpoint which it went on from, else 0."""
    try:
        lines = read_regular(run_dir / RESUMES).splitlines()
    except OSError:
        return 0
    return min((record["step"] for line in lines if (record := parse_record(line)) is not None), default=0)


def seconds_after(step: int, record: Mapping[str, Any]) -> float:
    """Seconds in the steps that a record stands for, those after `step`: its mean times their number."""
    return record["step_seconds"] * max(record["step"] - step, 0)


def _encode(values: Mapping[str, float | int | None]) -> bytes:
    line: dict[str, Any] = dict(values)
    nonfinite = {name: str(value) for name, value in values.items() if value is not None and not math.isfinite(value)}
    if nonfinite:
        line |= {**dict.fromkeys(nonfinite), "nonfinite": nonfinite}
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def parse_record(line: bytes) -> dict[str, Any] | None:
    """The record of a line, values that are not finite restored; None where the line holds none."""
    try:
        record = load_json(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not _is_step(record.get("step")):
        return None
    nonfinite = record.pop("nonfinite", {})
    if not isinstance(nonfinite, dict) or not set(map(str, nonfinite.values())) <= {"nan", "inf", "-inf"}:
        return None
    return record | {name: float(value) for name, value in nonfinite.items()}


def still_holds(file: BinaryIO, line: bytes, end: int) -> bool:
    """Tells whether `line` ends at byte `end` of a file, where it was read. Another file in place of that one, which may have
    got its inode, holds something else there."""
    file.seek(end - len(line))
    return file.read(len(line)) == line


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and is_number(value) and value >= 0


def _records(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each line that holds a record, as it stands in the file and decoded."""
    for number, line in enumerate(read_regular(path).splitlines(keepends=True), start=1):
        record = parse_record(line) if line.endswith(b"\n") else None
        if record is not None:
            yield line, record
        else:
            log.warning("%s line %d is no complete record and is left out", path, number)


def _until(lines: bytes, step: float) -> list[bytes]:
    """The lines of records, whose steps ascend, up to `step`."""
    records = lines.splitlines(keepends=True)
    return list(itertools.takewhile(lambda line: (parse_record(line) or {"step": 0})["step"] <= step, records))


def _keep_until(path: Path, step: int, guard: Callable[[], None]) -> None:
    """Puts a new file with the records up to `step` in place of the old one, into which an earlier writer that does not
    know of this one may still write."""
    for unfinished in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        if re.fullmatch("[0-9a-f]{8}", unfinished.name.removeprefix(f"{path.name}.").removesuffix(".tmp")):
            unfinished.unlink(missing_ok=True)  # an earlier writer's, which would now put it in place
    if not path.exists():
        return
    with atomic_writer(path, temporary=f"{path.name}.{secrets.token_hex(4)}.tmp", guard=guard) as file:
        file.writelines(line for line, record in _records(path) if record["step"] <= step)
