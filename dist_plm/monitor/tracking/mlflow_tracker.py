"""A run's curves in MLflow: one run there for one run here, however often that is started again."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dist_plm.config.decode import flatten
from dist_plm.config.messages import show
from dist_plm.core.errors import EXIT_FINISHED, EXIT_INTERRUPTED, EXIT_REQUEUE, UserError
from dist_plm.monitor.tracking.kept_text import kept_text
from dist_plm.monitor.tracking.later_measures import records_of
from dist_plm.monitor.tracking.steps_once import StepsOnce
from dist_plm.spec.schema_run import TrackConfig

#: MLflow takes no more parameters at once.
_BATCH = 100
#: How long training waits for a server, which may be silent: two tries of so many seconds, unless the environment says
#: otherwise. MLflow's own are eight of 120.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
#: Characters that a name of a metric may not have.
_NO_NAME = re.compile(r"[^\w\-. /:]")


class MlflowTracker:
    """An MLflow run whose id is kept in the run directory, so that a resumed run continues the same curves.

    Local unless `track.mlflow_uri` names a server: files in RUN_DIR/mlflow, which `mlflow ui` shows. MLflow keeps every value
    that it was ever given, so each step is given once: what was there before a kill stays, what it lacks is made up for from
    metrics.jsonl.
    """

    def __init__(
        self,
        config: TrackConfig,
        run_dir: Path,
        *,
        run_name: str,
        settings: Mapping[str, Any],
        start_step: int = 0,
        goes_on: bool = True,
    ) -> None:
        folder = run_dir.resolve() / "mlflow"
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would tell its maker of each run
        if config.mlflow_uri is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # versions from 3.7 on refuse it otherwise
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient, entities
        except ImportError:
            raise UserError("track.to = mlflow needs it installed: pip install mlflow-skinny (or mlflow)") from None
        self._metric = entities.Metric
        self._client = MlflowClient(tracking_uri=config.mlflow_uri or folder.as_uri())
        self._steps = StepsOnce(0)
        self._before = "FINISHED"  # what MLflow said of the run when it was opened
        self._status = "RUNNING"  # what it says now
        self._is_new = False
        self._id = self._open(
            folder / "run_id", config.mlflow_experiment, run_name, new=start_step == 0, goes_on=goes_on
        )
        if self._is_new:  # also where a run goes on that MLflow has not heard of
            told = [entities.Param(_NO_NAME.sub("_", name), show(value)) for name, value in flatten(settings).items()]
            for first in range(0, len(told), _BATCH):
                self._client.log_batch(self._id, params=told[first : first + _BATCH])
        self._held = self._steps.newest  # the step that MLflow had got to before this start
        for record in records_of(run_dir, start_step) if start_step > self._held else ():
            self.log(record["step"], record)

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        if (known := self._steps.values(step, values)) is not None:
            self._give(step, known)

    def tell(self, step: int, values: Mapping[str, float]) -> None:
        """Adds measures to a step that MLflow has had before."""
        if step <= self._held:
            self._give(step, values)

    def _give(self, step: int, values: Mapping[str, float | int]) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._metric(_NO_NAME.sub("_", name), float(value), now, step)
            for name, value in values.items()
            if name != "step"
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def rewind(self, step: int) -> None:
        """Goes back to a step. The curves of a run that went back show the steps that it gave up."""

    def keep(self, page: Path, text: str) -> None:
        """Adds the page to the run's artifacts, in place of an earlier one."""
        self._client.log_artifact(self._id, str(page))

    def close(self, exit_code: int | None = None) -> None:
        """Says how the run ended; where nothing is told of that, MLflow says of it what it said before."""
        status = self._before if exit_code is None else status_of(exit_code)
        if status != self._status:  # a run that MLflow says is running would get a time at which it ended
            self._client.set_terminated(self._id, status=status)

    def _open(self, kept: Path, experiment: str, run_name: str, *, new: bool, goes_on: bool) -> str:
        """Finds the run that an earlier start began, or begins one."""
        run_id = "" if new else kept_text(kept)
        if re.fullmatch("[0-9a-f]{32}", run_id):
            self._before = self._client.get_run(run_id).info.status
            if goes_on:
                self._client.update_run(run_id, status="RUNNING")
            else:
                self._status = self._before
            self._steps.newest = max((one.step for one in self._client.get_metric_history(run_id, "loss")), default=0)
            return run_id
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found is not None else self._client.create_experiment(experiment)
        run_id, self._is_new = self._client.create_run(number, run_name=run_name).info.run_id, True
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(f"{run_id}\n", encoding="utf-8")
        return run_id


def status_of(exit_code: int) -> str:
    """MLflow's word for how a run ended: KILLED where a signal or the keyboard stopped it, FAILED if refused or crashed."""
    if exit_code == EXIT_FINISHED:
        return "FINISHED"
    return "KILLED" if exit_code in (EXIT_REQUEUE, EXIT_INTERRUPTED) else "FAILED"
