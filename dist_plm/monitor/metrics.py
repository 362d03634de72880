"""`metrics.jsonl`: one JSON object per logged step, each step once however often the run was killed.

Every line is whole and valid JSON. A number that is not finite is written as null and named under `nonfinite`, from
where `read_metrics` restores it. Other nulls mean "does not apply" (no loss scale outside fp16) or "not known" (no
MFU on an unknown device).
"""

import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dist_plm.core.parsing import is_number, load_json
from dist_plm.core.regular import read_regular

log = logging.getLogger(__name__)

EVAL_PREFIX = "eval/"


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
        skipped: updates skipped since the previous record because gradients overflowed.
        memory_gib: the most of a GPU's memory that tensors have held at once; None on the CPU.
        evaluation: held-out measures at this step, without their prefix, e.g. loss, perplexity, accuracy.
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
    memory_gib: float | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, float | int | None]:
        """The fields under their names in the file; parts of the loss as `loss/*`, evaluation measures as `eval/*`."""
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
            **({} if self.memory_gib is None else {"memory_gib": self.memory_gib}),
            **{f"loss/{name}": value for name, value in self.terms.items()},
            **{EVAL_PREFIX + name: value for name, value in self.evaluation.items()},
        }


class MetricsWriter:
    """Appends records to a metrics file. One writer a run: rank 0's.

    Args:
        path: the file; its directory is made.
        resume_step: the step the run continues from. Records of later steps are dropped, as these steps are taken
            again, and so is a line torn by a kill; the old file stays until the new one is complete.
        guard: called before each record; what it raises keeps that from being written.
    """

    def __init__(self, path: Path, *, resume_step: int = 0, guard: Callable[[], None] = lambda: None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _keep_until(path, resume_step, guard)
        self._file, self._guard = path.open("ab"), guard

    def write(self, record: StepRecord) -> None:
        """Appends one line in a single system call, so that a reader never waits for the rest of one."""
        self._guard()
        self._file.write(_encode(record.as_dict()))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file in the order written, values that are not finite restored as floats.

    Lines that are no record (the last one of a killed run may be torn) are left out with a warning in the log.

    Raises:
        FileNotFoundError: there is no such file.
    """
    return [record for _, record in _records(path)]


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


def _keep_until(path: Path, step: int, guard: Callable[[], None]) -> None:
    """Puts a new file with the records up to `step` in place of the old one, into which an earlier writer that does not
    know of this one may still write."""
    for unfinished in path.parent.glob(f"{path.name}.*.tmp"):
        unfinished.unlink(missing_ok=True)  # an earlier writer's, which would now put it in place
    if not path.exists():
        return
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    with temporary.open("wb") as file:
        file.writelines(line for line, record in _records(path) if record["step"] <= step)
        file.flush()
        os.fsync(file.fileno())
    guard()
    temporary.replace(path)
