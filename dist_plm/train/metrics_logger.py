"""Turns steps into records: averages over the steps since the last one, and hands each record to whoever shows it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dist_plm.core.parsing import is_number
from dist_plm.data.loader.skipped_samples import SkippedSamples
from dist_plm.engines.base import StepResult
from dist_plm.monitor.metrics_file import MetricsWriter, StepRecord
from dist_plm.monitor.progress import Progress
from dist_plm.monitor.trackers import Tracker
from dist_plm.spec.flops import step_flops, utilisation
from dist_plm.spec.freezing import frozen_tensors
from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.spec.schema import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSize:
    """Holds what one sample costs. `peak_tflops` is of all devices together, None where unknown."""

    tokens: int
    flops: float
    peak_tflops: float | None


def sample_size(
    model: ModelConfig,
    objective: ObjectiveConfig,
    sequence_length: int,
    global_batch: int,
    peak_tflops: float | None,
    freeze: Sequence[str] = (),
) -> SampleSize:
    """Counts what one sample of a finalised run costs, `freeze` of whose parts are not trained."""
    frozen = frozen_tensors(model, freeze)
    flops = step_flops(model, objective, sequence_length, global_batch, frozen) / global_batch
    return SampleSize(tokens=sequence_length, flops=flops, peak_tflops=peak_tflops)


@dataclass(slots=True, kw_only=True)
class MetricsLogger:
    """Lives on rank 0. Time spent outside of steps (evaluation, saving) does not count."""

    size: SampleSize
    metrics: MetricsWriter
    progress: Progress
    tracker: Tracker
    log_every: int
    micro_batch: int
    memory_gib: Callable[[], float | None] = lambda: None
    #: Counts the tokens of samples from one number to before another; None: all are of size.tokens.
    count_tokens: Callable[[int, int], int] | None = None
    skipped: SkippedSamples = field(default_factory=SkippedSamples)
    _seconds: float = 0.0
    _steps: int = 0
    _tokens: int = 0
    _tokens_seen: int | None = None
    _skipped: int = 0
    _began: float = 0.0
    _evaluation: dict[str, float] = field(default_factory=dict)
    _heal: dict[str, float] = field(default_factory=dict)
    _observed: dict[str, float] = field(default_factory=dict)
    _record: StepRecord | None = None  # of the last step, until it is written or passed over

    def begin_step(self) -> None:
        self._began = time.perf_counter()

    def end_step(self, step: int, result: StepResult, lr: float, *, batch: int, samples_seen: int) -> None:
        """Takes note of update number `step` (1 for the first), which took `batch` of all `samples_seen` so far."""
        self._seconds += time.perf_counter() - self._began
        self._steps += 1
        if self._tokens_seen is None:
            self._tokens_seen = self._count(0, samples_seen - batch)
        tokens = self._count(samples_seen - batch, samples_seen)
        self._tokens_seen, self._tokens = self._tokens_seen + tokens, self._tokens + tokens
        self._skipped += result.skipped
        self._record = self._make_record(step, result, lr, batch, samples_seen)
        self.progress.update(self._record)

    def note_evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Attaches an evaluation to the next record. The one before the first update is told apart as `initial/*`."""
        prefix = "initial/" if step == 0 else ""
        self._evaluation |= {f"{prefix}{name}": value for name, value in values.items()}
        self.progress.evaluation(step, values)

    def note_alarms(self, count: int) -> None:
        """Adds bad steps that the run goes on from to the next record."""
        if count:
            self._heal["alarms"] = self._heal.get("alarms", 0) + count

    def note_heal(self, values: Mapping[str, float]) -> None:
        """Attaches what self-healing did to the next record."""
        self._heal |= values

    def note_observed(self, values: Mapping[str, float]) -> None:
        """Attaches what was looked at after a step to the next record, under its names there."""
        self._observed |= values

    def rewind(self, step: int, state: Mapping[str, Any], skipped: SkippedSamples, heal: Mapping[str, float]) -> None:
        """Goes back to the checkpoint of a step: records after it are dropped.

        Args:
            state: what `state` gave there; empty where it kept none.
            skipped: samples that are left out from then on.
            heal: for the next record.
        """
        self.metrics.rewind(step)
        self.tracker.rewind(step)
        self.skipped, self._tokens_seen = skipped, None
        self.load_state(
            state or {"seconds": 0.0, "steps": 0, "skipped": 0, "tokens": 0, "evaluation": {}, "record": None}
        )
        self.note_heal(heal)

    def flush(self, *, force: bool) -> None:
        """Writes the last step's record if it is due, evaluated or the last (`force`), and starts a new average."""
        record, self._record = self._record, None
        if record is None or not (force or self._evaluation or record.step % self.log_every == 0):
            return
        record = replace(record, evaluation=self._evaluation, heal=self._heal, observed=self._observed)
        self.metrics.write(record)
        self.tracker.log(record.step, record.as_dict())
        self._seconds, self._steps, self._tokens, self._skipped, self._evaluation = 0.0, 0, 0, 0, {}
        self._heal, self._observed = {}, {}

    def state(self) -> dict[str, Any]:
        """Gives what a resumed run needs for its next record to be as if there had been no break. Fit for JSON."""
        return {
            "seconds": self._seconds,
            "steps": self._steps,
            "tokens": self._tokens,
            "tokens_seen": self._tokens_seen,
            "skipped": self._skipped,
            "evaluation": self._evaluation,
            "heal": self._heal,
            "observed": self._observed,
            "record": asdict(self._record) if self._record is not None else None,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raises KeyError, TypeError or ValueError where `state` is not what `state()` gives."""
        tokens = state["tokens"] if "tokens" in state else state["samples"] * self.size.tokens  # of before
        numbers = [*(state[name] for name in ("seconds", "steps", "skipped")), tokens]
        evaluation, heal, observed = (dict(state.get(name, {})) for name in ("evaluation", "heal", "observed"))
        record = StepRecord(**state["record"]) if state["record"] is not None else None
        seen = state.get("tokens_seen")  # None of before: then they are counted, as if all samples had been as long
        said = [
            *numbers,
            seen,
            *evaluation.values(),
            *heal.values(),
            *observed.values(),
            *(record.as_dict().values() if record is not None else ()),
        ]
        if not all(number is None or is_number(number) for number in said) or None in numbers:
            raise TypeError("there are values that are no numbers")
        self._seconds, self._steps, self._skipped, self._tokens = numbers
        self._tokens_seen = seen
        self._evaluation, self._heal, self._observed, self._record = evaluation, heal, observed, record

    def _count(self, first: int, stop: int) -> int:
        """Counts the tokens of the samples at places `first` to before `stop`."""
        if self.count_tokens is None:
            return (stop - first) * self.size.tokens
        return sum(self.count_tokens(*run) for run in self.skipped.runs(first, stop))

    def _worst(self, result: StepResult, before: int, after: int) -> dict[str, float]:
        """Tells the loss of the worst microbatch of a step, and the numbers of its first and last sample.

        Args:
            before, after: samples that had been seen; a last step may be short, and its last microbatch as well.
        """
        if result.worst is None:
            return {}
        number, loss = result.worst
        place = before + number * self.micro_batch
        first, last = self.skipped.span(place, min(self.micro_batch, after - place))
        return {"loss": loss, "first_sample": first, "last_sample": last}

    def _make_record(self, step: int, result: StepResult, lr: float, batch: int, samples_seen: int) -> StepRecord:
        size, seconds = self.size, self._seconds
        assert self._tokens_seen is not None
        return StepRecord(
            step=step,
            loss=result.loss,
            lr=lr,
            grad_norm=result.grad_norm,
            tokens_seen=self._tokens_seen,
            samples_seen=samples_seen,
            tokens_per_second=self._tokens / seconds,
            step_seconds=seconds / self._steps,
            mfu=utilisation(self._tokens / size.tokens * size.flops, seconds, size.peak_tflops),
            loss_scale=result.loss_scale,
            skipped=self._skipped,
            skipped_share=self._skipped / self._steps,
            memory_gib=self.memory_gib(),
            terms=result.terms if len(result.terms) > 1 else {},
            worst=self._worst(result, samples_seen - batch, samples_seen),
        )
