"""Declares what an engine reads of a run's configuration. Needs no PyTorch."""

from dataclasses import dataclass

from dist_plm.spec.engines import EngineConfig
from dist_plm.spec.optimizers import OptimConfig
from dist_plm.spec.schema import ModelConfig, ParallelConfig, PrecisionConfig
from dist_plm.spec.schema_run import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Holds the sections of a finalised run that an engine reads.

    Args:
        run_dir: of the run, for what an engine leaves there.
    """

    engine: EngineConfig
    model: ModelConfig
    optim: OptimConfig
    parallel: ParallelConfig
    precision: PrecisionConfig
    train: TrainConfig
    sequence_length: int
    run_dir: str
