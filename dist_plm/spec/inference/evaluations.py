"""Settings of what is measured of a model: by launch/evaluate.py, and in pretraining at intervals."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from dist_plm.config.bounds import Bounds
from dist_plm.config.types import Count, Natural
from dist_plm.spec.inference.measurements import MEASUREMENTS
from dist_plm.spec.objectives import ObjectiveConfig

#: Of what is drawn by (seed, row).
Seed = Annotated[int, Bounds(low=0, high=2**63 - 1)]
#: How the hidden states of a row become one vector.
Pooling = Literal["mean", "first", "last"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationDataConfig:
    """The documents of a store's `split`, or of the files that the glob `text` matches: whole files, blocks between blank
    lines, or lines (`document`). Of a bare Megatron pair `shares` of the documents are train, validation and test. `rows` is a
    file of labelled rows, with `columns` and `header` as in fine-tuning; a probe learns from those of `train_rows`.
    `against` is a store whose training documents the set is compared with."""

    path: str | None = None
    split: Literal["train", "validation", "test"] = "test"
    shares: tuple[float, float, float] = (0.98, 0.01, 0.01)
    text: str | None = None
    against: str | None = None
    column: str = "text"
    document: Literal["whole", "block", "line"] = "whole"
    rows: str | None = None
    train_rows: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    header: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSetConfig:
    """Says what a run of pretraining measures beside its own validation samples, as `eval/NAME/…`. The settings are those of
    launch/evaluate.py, which measures the same of a checkpoint."""

    name: str
    on: Literal["perplexity", "objective", "probe"] = "perplexity"
    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    window: Annotated[int, Bounds(low=2)] | None = None
    stride: Count | None = None
    documents: Literal["apart", "joined"] = "apart"
    limit: Natural = 0
    pooling: Pooling = "mean"
    seed: Seed | None = None  # that of the run

    def measured(self, objective: ObjectiveConfig, *, pseudo: bool) -> Iterator[str]:
        """Names what it measures of a model that learns by `objective`, and masks what it is asked where that is `pseudo`."""
        measures = MEASUREMENTS[self.on].measured(objective, pseudo=pseudo)
        yield from (f"{self.name}/{measure}" for measure in measures)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationsConfig:
    """Names what is measured at evaluations. `every` counts steps, a multiple of train.eval_every; None: at each of them.
    Before the first step and after the last all is measured."""

    every: Count | None = None
    tasks: tuple[NamedSetConfig, ...] = ()
