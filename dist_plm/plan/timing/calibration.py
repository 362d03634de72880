"""Adjusts the speed of kernels to what a short run of one's own took: 20 steps are enough."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dist_plm.config import runfile
from dist_plm.core.errors import ConfigError, reason_of
from dist_plm.core.parsing import is_number
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.plan.timing.efficiency import DEFAULT, Efficiency
from dist_plm.plan.timing.step_time import step_time
from dist_plm.spec.gpus import GPUS
from dist_plm.spec.schema import PretrainConfig

#: Steps that are left out: the first compile, and fill caches.
_WARM_UP = 3
#: Between which factors speed is looked for: kernels that are 20 times slower than foretold are not waited for by a GPU.
_SLOWEST, _FASTEST = 0.05, 4.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Holds what a run took, what had been foretold of it, and the efficiencies with which the two agree."""

    run: str
    seconds: float
    foretold: float
    efficiency: Efficiency

    def line(self) -> str:
        """Says it in a line."""
        return (
            f"calibrated on {self.run}: {self.seconds:.3g} s a step measured, {self.foretold:.3g} foretold; kernels at "
            f"{self.efficiency.speed:.2f} of the speed assumed"
        )


def calibration_of(run: str, gpu: str | None) -> Calibration:
    """Reads run.yaml and metrics.jsonl of a run directory.

    Args:
        gpu: that the run was on, where its own cluster.gpu does not say.

    Raises:
        ConfigError: it is no run, has too few steps, was on a GPU that is not known, or on none.
    """
    directory = Path(run)
    config = runfile.read(directory / "run.yaml", PretrainConfig)
    try:
        seconds = measured_seconds(read_metrics(directory / "metrics.jsonl"))
    except OSError as error:
        raise ConfigError([f"calibrate = {run!r} has no metrics.jsonl that can be read: {reason_of(error)}"]) from error
    if seconds is None:
        raise ConfigError([f"calibrate = {run!r} has fewer than {_WARM_UP + 2} logged steps: let it run for 20"])
    name = config.cluster.gpu or gpu
    if name not in GPUS:
        raise ConfigError([f"calibrate = {run!r}: cluster.gpu = {name!r} of it is not in the table of GPUs"])
    if config.model.vocab_size is None or config.parallel.data is None:
        raise ConfigError([f"calibrate = {run!r} has a run.yaml that is not complete: name a run that has started"])

    def predicted(efficiency: Efficiency) -> float:
        return step_time(config, GPUS[name], efficiency=efficiency).seconds

    found = fitted(predicted, seconds)
    if found is None:
        raise ConfigError(
            [
                f"calibrate = {run!r}: {seconds:.3g} s a step cannot be what a {name} takes for it, of which "
                f"{predicted(DEFAULT):.3g} s are foretold: set cluster.gpu to the GPU that it ran on"
            ]
        )
    return Calibration(run, seconds, predicted(DEFAULT), found)


def measured_seconds(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Takes the median of logged steps without the first; None where there are too few."""
    logged = [record.get("step_seconds") for record in records]
    times = [float(seconds) for seconds in logged if is_number(seconds) and 0 < seconds < math.inf][_WARM_UP:]
    return statistics.median(times) if len(times) > 1 else None


def fitted(
    predicted: Callable[[Efficiency], float], seconds: float, efficiency: Efficiency = DEFAULT
) -> Efficiency | None:
    """Finds the speed of kernels at which a prediction is `seconds`, by halving; None where there is none."""
    low, high = _SLOWEST, _FASTEST
    if not predicted(replace(efficiency, speed=high)) <= seconds <= predicted(replace(efficiency, speed=low)):
        return None
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        if predicted(replace(efficiency, speed=middle)) > seconds:
            low = middle
        else:
            high = middle
    return replace(efficiency, speed=(low * high) ** 0.5)
