"""Opens what a run says of itself: run.yaml, metrics and trackers while it goes on."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from dist_plm.checkpoint.open_checkpoint import Checkpoint
from dist_plm.config import runfile
from dist_plm.config.decode import encode
from dist_plm.config.origins import Origin, told
from dist_plm.core.errors import (
    EXIT_CRASHED,
    EXIT_FINISHED,
    EXIT_HUNG,
    EXIT_INTERRUPTED,
    EXIT_REQUEUE,
    CheckpointError,
    Diverged,
    ReplicasDifferError,
    SaveFailedError,
    UserError,
    described,
    reason_of,
)
from dist_plm.core.files import atomic_writer, open_to_append
from dist_plm.distributed.collectives import on_first
from dist_plm.distributed.groups import Groups
from dist_plm.monitor.metrics_file import RESUMES, MetricsWriter
from dist_plm.monitor.progress import build_progress
from dist_plm.monitor.report import REPORT, load_run, render_report
from dist_plm.monitor.report_page.build import build_page, write_page
from dist_plm.monitor.report_page.run_facts import ORIGINS
from dist_plm.monitor.trackers import Tracker, build_trackers
from dist_plm.monitor.watchdog import Watchdog
from dist_plm.spec.schema import TrainingConfig
from dist_plm.spec.schema_run import TrackConfig
from dist_plm.train.healing.acts import noted, skipped_samples
from dist_plm.train.metrics_logger import MetricsLogger, sample_size
from dist_plm.train.startup.device_memory import memory_gib
from dist_plm.train.startup.lease import RunLease, SupersededError
from dist_plm.train.startup.run_position import Position
from dist_plm.train.startup.start import Start

log = logging.getLogger(__name__)

#: In a run's directory: what the model says of the validation rows.
PREDICTIONS = "predictions"


def open_records(
    config: TrainingConfig,
    start: Start,
    position: Position,
    found: Checkpoint | None,
    peak: float | None,
    groups: Groups,
    count_tokens: Callable[[int, int], int] | None = None,
) -> MetricsLogger | None:
    """Makes rank 0's metrics logger, and run.yaml beside what it writes; None elsewhere. Collective.

    Args:
        count_tokens: counts those of samples from one number to before another; None where all rows are full.
    Raises:
        CheckpointError: on every rank, where they cannot be written, or the checkpoint's part of them cannot be read.
    """
    made: list[MetricsLogger] = []

    def make() -> None:
        try:
            fill()
        except BaseException as error:
            if made:
                _end_failed(made[0], start.run_dir, config.track, _exit_code_of(error))
            raise

    def fill() -> None:
        try:
            runfile.write(config, start.run_dir / "run.yaml")
            note_resume(start.lease, position.step)
            first_step = position.first_unrecorded_step - 1
            made.append(build_recorder(config, start.run_dir, first_step, peak, start.lease))
            made[0].count_tokens = count_tokens
            made[0].skipped = skipped_samples(config.data.skip_samples, position.history)
        except OSError as error:
            what = error.filename2 or error.filename or start.run_dir
            raise UserError(
                f"{what} cannot be written: {reason_of(error, what)}; make room, or move away what is there"
            ) from None
        if found is not None and found.train_state.loop.get("recorder"):
            try:
                made[0].load_state(found.train_state.loop["recorder"])
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(f"{found.where}: `loop.recorder` is not what a run writes: {error}") from None
        made[0].note_heal(noted(position.history, position.step))

    on_first(groups.world, make)
    return made[0] if made else None


def build_recorder(
    config: TrainingConfig, run_dir: Path, first_step: int, peak: float | None, lease: RunLease
) -> MetricsLogger:
    """Builds metrics, progress and trackers of rank 0.

    Args:
        peak: TFLOP/s of all devices together.
    """
    train_config = config.train
    return MetricsLogger(
        size=sample_size(
            config.model,
            config.objective,
            config.data.sequence_length,
            train_config.global_batch,
            peak,
            train_config.freeze,
        ),
        metrics=MetricsWriter(run_dir / "metrics.jsonl", resume_step=first_step, guard=lease.check),
        progress=build_progress(train_config.stop_at or train_config.steps, first_step),
        tracker=build_trackers(
            config.track, run_dir, run_name=config.run.name, settings=encode(config), start_step=first_step
        ),
        log_every=train_config.log_every,
        micro_batch=train_config.micro_batch,
        memory_gib=memory_gib,
    )


def note_resume(lease: RunLease, step: int) -> None:
    """Adds a line to the file of resumes: after which step this start, told by the id of its line of starts, goes on."""
    line = json.dumps({"id": json.loads(lease.line)["id"], "step": step}).encode() + b"\n"
    with open_to_append(lease.path.with_name(RESUMES)) as file:
        file.write(line)


def write_origins(run_dir: Path, origins: Mapping[str, Origin]) -> None:
    """Writes who set each value of the configuration, for reports. Where that cannot be, a line says so."""
    try:
        with atomic_writer(run_dir / ORIGINS) as file:
            file.write(json.dumps({key: told(origin) for key, origin in origins.items()}, indent=0).encode() + b"\n")
    except OSError as error:
        log.warning("%s cannot be written: %s", run_dir / ORIGINS, reason_of(error))


@contextmanager
def closing_records(
    metrics_logger: MetricsLogger | None,
    watchdog: Watchdog,
    run_dir: Path,
    track: TrackConfig,
    world: dist.ProcessGroup,
) -> Iterator[None]:
    """Closes rank 0's records where what it stands around fails or hangs, before the process ends. It begins as soon as they
    are open, and ends with the run. Collective where all ranks fail alike."""
    if metrics_logger is None:
        end = no_records
    else:
        end = partial(_end_failed, metrics_logger, run_dir, track)
        watchdog.at_hang = partial(_end_trackers, metrics_logger.tracker, run_dir, track, EXIT_HUNG)
    try:
        yield
    except SupersededError:  # another start keeps them now
        raise
    except BaseException as error:
        watchdog.progress("closing the records of a run that failed", patient=True)
        end(_exit_code_of(error))
        if isinstance(error, Diverged | ReplicasDifferError | SaveFailedError):
            dist.barrier(group=world)  # torchrun ends the others with the first: rank 0 has something to say
        raise


def no_records(exit_code: int) -> None:
    """Closes nothing, on ranks that have no records."""


def close_records(metrics_logger: MetricsLogger | None, run_dir: Path, track: TrackConfig, *, finished: bool) -> None:
    """Closes rank 0's metrics logger of a run that is finished, or that a signal stopped."""
    if metrics_logger is not None:
        metrics_logger.progress.close()
        metrics_logger.metrics.close()
        _end_trackers(metrics_logger.tracker, run_dir, track, EXIT_FINISHED if finished else EXIT_REQUEUE)


def _exit_code_of(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    return error.exit_code if isinstance(error, UserError) else EXIT_CRASHED


def _end_failed(metrics_logger: MetricsLogger, run_dir: Path, track: TrackConfig, exit_code: int) -> None:
    """Closes what there is of the records; nothing that fails here hides what the run ends for."""
    for close in (metrics_logger.progress.close, metrics_logger.metrics.close):
        try:
            close()
        except Exception as error:
            log.warning("the records cannot be closed: %s", described(error))
    _end_trackers(metrics_logger.tracker, run_dir, track, exit_code)


def _end_trackers(tracker: Tracker, run_dir: Path, track: TrackConfig, exit_code: int) -> None:
    """Tells trackers how the run ended; unless somebody waits for it to go away, they get a report first."""
    if track.to and exit_code not in (EXIT_REQUEUE, EXIT_INTERRUPTED):
        keep_report(run_dir, tracker)
    tracker.close(exit_code)


def keep_report(run_dir: Path, tracker: Tracker) -> None:
    """Writes the page of a run that ends beside its metrics, and gives it to its trackers; none of one that has logged no step.
    No run fails for a report."""
    page = run_dir / REPORT
    try:
        if not os.path.getsize(run_dir / "metrics.jsonl"):
            return
        run = load_run(run_dir)
        write_page(page, build_page([run]))
        tracker.keep(page, render_report([run]))
    except Exception as error:
        log.warning("the run has ended; %s cannot be made: %s", page, described(error))


def write_predictions(run_dir: Path, files: Mapping[str, Any]) -> None:
    """Writes files by name, in place of those of the evaluation before: lists to .jsonl, an item a line, else one value. Where
    they cannot be written, a line says so and training goes on."""
    try:
        (run_dir / PREDICTIONS).mkdir(exist_ok=True)
        for name, content in files.items():
            if name.endswith(".jsonl"):
                text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in content)
            else:
                text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
            with atomic_writer(run_dir / PREDICTIONS / name) as file:
                file.write(text.encode(errors="replace"))
    except OSError as error:
        log.warning("%s cannot be written: %s", run_dir / PREDICTIONS, reason_of(error))
