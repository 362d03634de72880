"""Scales what is foretold of a step to what a short run of one's own took: 20 steps are enough.

All parts of a step are scaled alike, and the more, the more a step is like those of that run: part of what it was off by is its
cluster's, the rest its own. bench/planner.py tells how near this comes to other runs of the same cluster.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dist_plm.config import runfile
from dist_plm.core.errors import ConfigError, count_of, reason_of
from dist_plm.core.parsing import is_number
from dist_plm.monitor.metrics_file import read_metrics
from dist_plm.plan.timing.efficiency import DEFAULT, Efficiency
from dist_plm.plan.timing.likeness import IN_COMMON, Traits, carried
from dist_plm.plan.timing.step_time import step_time
from dist_plm.spec.gpus import GPUS
from dist_plm.spec.schema import TrainingConfig
from dist_plm.spec.schema_finetune import FinetuneConfig, kind_of

#: Steps that are left out: the first compile, and fill caches.
_WARM_UP = 3
#: Between which factors steps may last as foretold: for kernels that are 20 times slower no GPU waits.
_LEAST, _MOST = 0.25, 20.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Holds what a run took and what had been foretold of it.

    Args:
        traits: of the run.
        row_tokens: of a fine-tuning run's rows on average, which it is foretold for; None where rows are full.
    """

    run: str
    gpu: str
    seconds: float
    foretold: float
    traits: Traits
    row_tokens: int | None = None

    def efficiency(self, config: TrainingConfig | None = None) -> Efficiency:
        """Gives the efficiencies for a finalised run on the same GPUs, those with which the run itself is foretold as it was.

        Args:
            config: None for any run of the cluster, so that grids can be compared without one being favoured.
        """
        share = IN_COMMON if config is None else carried(self.traits.distance(Traits.of(config)))
        return replace(DEFAULT, slowness=(self.seconds / self.foretold) ** share)

    def line(self, config: TrainingConfig | None = None) -> str:
        """Says it in a line, of one run or of any."""
        rows = f" with rows of {count_of(self.row_tokens, 'token')}" if self.row_tokens is not None else ""
        distance = 0.0 if config is None else self.traits.distance(Traits.of(config))
        whose = (
            "steps of any grid"
            if config is None
            else "steps"
            if distance == 0
            else f"{distance:.1f} doublings away, steps"
        )
        return (
            f"calibrated on {self.run}: {self.seconds:.3g} s a step measured, {self.foretold:.3g} foretold{rows}; {whose} "
            f"take {self.efficiency(config).slowness:.2f} of the time foretold"
        )


def nearest_calibration(place: str, config: TrainingConfig) -> Calibration:
    """Reads a run, or of a directory of runs the one on the GPU of a finalised configuration that is most like it.

    Raises:
        ConfigError: it is no run, and holds none that can calibrate.
    """
    gpu, runs = config.cluster.gpu, sorted(Path(place).glob("*/run.yaml"))
    if not runs or (Path(place) / "run.yaml").exists():
        return calibration_of(place, gpu)
    found, problems = list[Calibration](), list[str]()
    for run in runs:
        try:
            found.append(calibration_of(str(run.parent), gpu))
        except ConfigError as error:
            problems += error.problems
    alike = [one for one in found if one.gpu == gpu]
    if not alike:
        others = sorted({one.gpu for one in found})
        why = f"its runs were on {', '.join(others)}, not on {gpu}" if others else "; ".join(problems[:3])
        raise ConfigError([f"calibrate = {place!r} holds no run that can calibrate: {why}"])
    traits = Traits.of(config)
    return min(alike, key=lambda one: one.traits.distance(traits))


def calibration_of(run: str, gpu: str | None) -> Calibration:
    """Reads run.yaml and metrics.jsonl of the directory of a pretraining or fine-tuning run.

    Args:
        gpu: that the run was on, where its own cluster.gpu does not say.

    Raises:
        ConfigError: it is no run, has too few steps, was on a GPU that is not known, or on none.
    """
    directory = Path(run)
    file = directory / "run.yaml"
    try:
        config = runfile.read(file, kind_of(runfile.mapping_of(file)))
    except ConfigError as error:  # of which the first problem tells that it is none of ours
        raise ConfigError([f"calibrate = {run!r} is not the directory of a run: {error.problems[0]}"]) from error
    try:
        records = list(read_metrics(directory / "metrics.jsonl"))
    except OSError as error:
        raise ConfigError([f"calibrate = {run!r} has no metrics.jsonl that can be read: {reason_of(error)}"]) from error
    seconds = measured_seconds(records)
    if seconds is None:
        raise ConfigError([f"calibrate = {run!r} has fewer than {_WARM_UP + 2} logged steps: let it run for 20"])
    name = config.cluster.gpu or gpu
    if name not in GPUS:
        raise ConfigError([f"calibrate = {run!r}: cluster.gpu = {name!r} of it is not in the table of GPUs"])
    if config.model.vocab_size is None or config.parallel.data is None:
        raise ConfigError([f"calibrate = {run!r} has a run.yaml that is not complete: name a run that has started"])
    row_tokens = _row_tokens(records, config) if isinstance(config, FinetuneConfig) else None
    if row_tokens is not None:
        config = replace(config, data=replace(config.data, sequence_length=row_tokens))
    foretold = step_time(config, GPUS[name]).seconds
    if not _LEAST <= seconds / foretold <= _MOST:
        raise ConfigError(
            [
                f"calibrate = {run!r}: {seconds:.3g} s a step cannot be what cluster.gpu = {name!r} takes for it, of which "
                f"{foretold:.3g} s are foretold: set cluster.gpu to the GPU that it ran on"
            ]
        )
    return Calibration(run, name, seconds, foretold, Traits.of(config), row_tokens)


def measured_seconds(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Takes the median of logged steps without the first; None where there are too few."""
    times = list(_positive(records, "step_seconds"))[_WARM_UP:]
    return statistics.median(times) if len(times) > 1 else None


def _row_tokens(records: Sequence[Mapping[str, Any]], config: FinetuneConfig) -> int | None:
    """Tells how long rows were on average, which are padded to the longest of a microbatch alone."""
    seen = list(_positive(records, "tokens_seen"))
    steps = list(_positive(records, "step"))
    if len(seen) < 2 or len(seen) != len(steps) or steps[-1] <= steps[0] or seen[-1] <= seen[0]:
        return None
    # Rows that are read twice are counted once, as the file has them.
    each = config.task.rows_of_sample(config.model).read // (2 if config.task.reads_twice else 1)
    rows = (steps[-1] - steps[0]) * config.train.global_batch * each
    return min(config.data.sequence_length, max(1, math.ceil((seen[-1] - seen[0]) / rows)))


def _positive(records: Sequence[Mapping[str, Any]], name: str) -> Iterator[float]:
    """Yields what records tell under a name, where it is a positive number."""
    for value in (record.get(name) for record in records):
        if is_number(value) and 0 < value < math.inf:
            yield float(value)
