"""wandb, TensorBoard, MLflow and a CSV table, for those who want their curves there; `metrics.jsonl` is written in any case.

A tracker library is imported only if chosen. One that fails warns once and is dropped: no training ends for a curve.
"""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dist_plm.config.runfile import STARTED_IN, mapping_of
from dist_plm.monitor.tracking.csv_tracker import CsvTracker
from dist_plm.monitor.tracking.later_measures import forget_measures, note_measures, note_told, records_of
from dist_plm.monitor.tracking.mlflow_tracker import MlflowTracker
from dist_plm.monitor.wandb_tracker import WandbTracker
from dist_plm.spec.schema_run import TrackConfig

log = logging.getLogger(__name__)


class Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """Takes the values of a step under their names in metrics.jsonl; those that are None are left out."""

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Takes measures of a step that was logged before; evaluations.jsonl has them."""

    def rewind(self, step: int) -> None:
        """Goes back to a step: those after it are logged again."""

    def close(self, exit_code: int | None = None) -> None:
        """Writes out what is pending.

        Args:
            exit_code: that the run ends with; None: this says nothing of how it went.
        """

    def keep(self, page: Path, text: str) -> None:
        """Takes the report of a run that ends: its page, and what it says as text."""


def build_trackers(
    config: TrackConfig,
    run_dir: Path,
    *,
    run_name: str,
    settings: Mapping[str, Any],
    start_step: int = 0,
    goes_on: bool = True,
) -> "_Guarded":
    """All trackers of `config` as one that never raises. For rank 0 alone.

    Args:
        run_dir: wandb writes to `run_dir/wandb`, TensorBoard to `run_dir/tensorboard`, MLflow to `run_dir/mlflow`.
        settings: the resolved configuration, shown beside the curves.
        start_step: the step the run continues from; 0 begins new curves, also in a directory that holds old ones.
        goes_on: the run trains from there; else it is only told of, and is not shown as running meanwhile.
    """
    forget_measures(run_dir, start_step)
    makers: dict[str, Callable[[], Tracker]] = {
        "wandb": lambda: WandbTracker(config, run_dir, run_name=run_name, settings=settings, start_step=start_step),
        "tensorboard": lambda: TensorboardTracker(run_dir, settings=settings, start_step=start_step),
        "mlflow": lambda: MlflowTracker(
            config, run_dir, run_name=run_name, settings=settings, start_step=start_step, goes_on=goes_on
        ),
        "csv": lambda: CsvTracker(run_dir, start_step=start_step),
    }
    guarded = _Guarded()
    for name in config.to:
        guarded.add(name, makers[name])
    return guarded


def tell_trackers(
    config: TrackConfig, run_dir: Path, *, run_name: str, step: int, values: Mapping[str, float]
) -> list[str] | None:
    """Gives the trackers of a run what was measured of its checkpoint of a step, once: None where they have it already. It
    stays in evaluations.jsonl, for starts of the run that fill trackers anew. Those that failed are named; the next time all
    get it again, as they do where this was killed meanwhile: a point twice does less harm than one that is missing.

    Raises:
        OSError: the run's directory cannot be read or written.
        ConfigError: its run.yaml cannot be read.
    """
    frozen = run_dir / "run.yaml"
    settings = dict(mapping_of(frozen)) if frozen.exists() else {}
    settings.pop(STARTED_IN, None)
    if not note_measures(run_dir, step, values):
        return None
    newest = max((record["step"] for record in records_of(run_dir, sys.maxsize)), default=step)
    tracker = build_trackers(config, run_dir, run_name=run_name, settings=settings, start_step=newest, goes_on=False)
    tracker.tell(step, values)
    tracker.close()
    if not tracker.failed:
        note_told(run_dir, step, values)
    return tracker.failed


class TensorboardTracker:
    """TensorBoard event files; tags are the names in metrics.jsonl. Older events past `start_step` are hidden."""

    def __init__(self, run_dir: Path, *, settings: Mapping[str, Any], start_step: int = 0) -> None:
        self._directory = str(run_dir / "tensorboard")
        self._writer = self._open(start_step)
        if settings:
            text = json.dumps(settings, indent=2, default=str)
            self._writer.add_text("settings", f"```\n{text}\n```", global_step=start_step)

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        for name, value in _present(values).items():
            if name != "step":
                self._writer.add_scalar(name, value, global_step=step)

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        self.log(step, values)

    def _open(self, step: int) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(self._directory, purge_step=step + 1, flush_secs=30)

    def rewind(self, step: int) -> None:
        self._writer.close()
        self._writer = self._open(step)

    def close(self, exit_code: int | None = None) -> None:
        self._writer.close()

    def keep(self, page: Path, text: str) -> None:
        """Adds the text alone: TensorBoard shows no pages."""
        self._writer.add_text("report", f"```\n{text}\n```\n\n{page}")


class _Guarded:
    """Passes on to trackers by name, dropping one that fails: `failed` names it."""

    def __init__(self) -> None:
        self._trackers: dict[str, Tracker] = {}
        self.failed: list[str] = []

    def add(self, name: str, make: Callable[[], Tracker]) -> None:
        try:
            self._trackers[name] = make()
        except Exception as error:
            self._drop(name, error)

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        self._each(lambda tracker: tracker.log(step, values))

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.tell(step, values))

    def rewind(self, step: int) -> None:
        self._each(lambda tracker: tracker.rewind(step))

    def close(self, exit_code: int | None = None) -> None:
        self._each(lambda tracker: tracker.close(exit_code))
        self._trackers.clear()

    def keep(self, page: Path, text: str) -> None:
        self._each(lambda tracker: tracker.keep(page, text))

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                action(tracker)
            except Exception as error:
                self._drop(name, error)

    def _drop(self, name: str, error: Exception) -> None:
        self._trackers.pop(name, None)
        self.failed.append(name)
        log.warning("%s failed and is not used any more in this run: %r", name, error)


def _present(values: Mapping[str, float | int | None]) -> dict[str, float | int]:
    return {name: value for name, value in values.items() if value is not None}
