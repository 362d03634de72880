"""Finds the trackers of a run for what is measured of its checkpoints later on."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_plm.config.decode import decode
from dist_plm.core.errors import DataError, described
from dist_plm.monitor.metrics_file import EVAL_PREFIX, run_directory
from dist_plm.monitor.trackers import tell_trackers
from dist_plm.spec.schema_run import TrackConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """Holds where the trackers of a run are, and the step of the checkpoint that is measured."""

    config: TrackConfig
    run_dir: Path
    name: str
    step: int

    def give(self, name: str, measures: Mapping[str, float]) -> str:
        """Gives its trackers the measures of a set, and returns what became of them. No evaluation fails for a curve."""
        values = {f"{EVAL_PREFIX}{name}/{key}": value for key, value in measures.items() if math.isfinite(value)}
        if not values:
            return f"the trackers of {self.run_dir} got nothing, as nothing was measured"
        try:
            failed = tell_trackers(self.config, self.run_dir, run_name=self.name, step=self.step, values=values)
        except Exception as error:
            log.warning("the trackers of %s did not get the results: %s", self.run_dir, described(error))
            return f"the trackers of {self.run_dir} did not get them: {described(error)}"
        told = "had them already" if failed is None else "got them"
        failed = failed or []
        took = ", ".join(one for one in self.config.to if one not in failed)
        parts = [f"{took} of {self.run_dir} {told}, as {EVAL_PREFIX}{name}/… at step {self.step}"] if took else []
        if failed:
            parts.append(
                f"{', '.join(failed)} of {self.run_dir} did not get them: start the same again once it can be reached"
            )
        return "; ".join(parts)


def tracked_run(path: str, settings: Mapping[str, Any], where: str, step: int) -> TrackedRun:
    """Finds the trackers of the run that a checkpoint is of.

    Args:
        path: by which it was named.
        settings: those of its run; empty where it is of none.
        where: how people know it.
        step: that it was saved after.
    Raises:
        DataError: there are none.
    """
    run = settings.get("run") or {}
    run_dir = run_directory(path, run.get("dir")) if settings else None
    if run_dir is None:
        raise DataError(
            f"trackers = true: {where} is no checkpoint of a run whose directory is here, which trackers belong to: set "
            "trackers=false, and keep the results with out=FILE"
        )
    config = decode(TrackConfig, settings.get("track") or {}, of_before=True)
    if not config.to:
        raise DataError(
            f"trackers = true: {run_dir} is a run without trackers: set trackers=false, and keep the results with out=FILE"
        )
    return TrackedRun(config, run_dir, str(run.get("name", run_dir.name)), step)
