"""Every setting of a training run, as frozen dataclasses: `conf/` holds values, `decode` fills, `rules` checks.

A field without a default must be set by a file in `conf/` or on the command line; a field that may be `None` is derived
when it is (the docstring says from what). Sizes are counts unless the name carries a unit.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from dist_plm.config.bounds import between
from dist_plm.config.types import Count, Natural, Positive
from dist_plm.spec.engines import EngineConfig
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.inference.evaluations import EvaluationsConfig
from dist_plm.spec.inference.measurements import OF_PROBES
from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.spec.optimizers import OptimConfig
from dist_plm.spec.schedules import ScheduleConfig
from dist_plm.spec.schema_run import CheckpointConfig, ClusterConfig, EarlyStoppingConfig, TrackConfig, TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Where a run lives. `dir` is derived as `root`/`name` when None."""

    name: str
    root: str = "runs"
    dir: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendSource:
    """One of several stores. Without any `weight` shares follow data.temperature; `max_epochs` ends a store's part."""

    path: str
    weight: Positive | None = None
    max_epochs: Positive | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesConfig:
    """Says what any run has to say of its samples and of how they are read.

    `allow_change`: resume although the stream of samples is another than the checkpoint's. `skip_samples`: ranges of sample
    numbers, [[first, stop], …] without stop, that the run leaves out; what self-healing skips needs no mention."""

    sequence_length: Count
    loader_workers: Natural = 1
    prefetch: Count = 4  # microbatches each worker holds ready
    allow_change: bool = False
    skip_samples: tuple[tuple[Natural, Natural], ...] = ()

    #: How text is packed into rows, where it is.
    packing: ClassVar[str] = "concat"

    @property
    def stream_settings(self) -> dict[str, Any]:
        """Returns, by name, settings of its own that decide what is made of a sample."""
        return {}

    @property
    def paths(self) -> tuple[str, ...]:
        """Lists the paths of all that is read."""
        raise NotImplementedError

    @property
    def to_measure(self) -> str:
        """Names what a finished run is worth measuring on."""
        return self.paths[0]

    def is_here(self, path: str) -> bool:
        """Tells whether there is anything at one of these paths, seen from this machine."""
        return Path(path).exists()

    @property
    def are_here(self) -> bool:
        return all(map(self.is_here, self.paths))


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig(SamplesConfig):
    """A prepared store (a directory by prepare_data, or the prefix of a Megatron .bin/.idx pair), or a `blend` of several,
    and how it is read.

    `temperature`: shares of a blend in proportion to tokens ** (1 / temperature), 1 when None. `split` cuts a bare
    Megatron store into train, validation and test by document; a prepared store brings its own. `packing`: text in
    windows regardless of documents (concat), whole documents (best_fit), whole sentences (full_sentences) or whole
    sentences of one document (doc_sentences) in a row."""

    path: str | None = None
    blend: tuple[BlendSource, ...] = ()
    temperature: Positive | None = None
    packing: Literal["concat", "best_fit", "full_sentences", "doc_sentences"] = "concat"
    split: tuple[float, float, float] = (0.98, 0.01, 0.01)

    @property
    def stores(self) -> tuple[str, ...]:
        """Lists the paths of all that is read."""
        return tuple(source.path for source in self.blend) if self.path is None else (self.path,)

    @property
    def paths(self) -> tuple[str, ...]:
        return self.stores

    def is_here(self, path: str) -> bool:
        return Path(path).is_dir() or Path(f"{path}.idx").exists()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """Degrees of each axis of the process grid. `data` is derived from the world size when None."""

    data: Count | None = None
    tensor: Count = 1
    pipeline: Count = 1
    virtual_pipeline: Count = 1  # model chunks a pipeline rank holds; above 1 the schedule interleaves them
    stage_layers: tuple[Natural, ...] | None = None  # of each chunk, in the order of the model; as many each if None
    context: Count = 1
    expert: Count = 1
    sequence_parallel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionConfig:
    """Loss-scale settings act under fp16 alone. `reduce_in_fp32` sums gradients over data ranks in fp32. `tf32` has a GPU
    multiply fp32 with 10 bits of mantissa, on tensor cores."""

    name: Literal["fp32", "bf16", "fp16", "fp8"]
    reduce_in_fp32: bool = True
    tf32: bool = False  # of fp32 alone; nothing changes on a CPU
    initial_loss_scale: Positive = 65536.0
    min_loss_scale: Positive = 1.0
    loss_scale_window: Count = 1000
    loss_scale_hysteresis: Count = 2

    @property
    def weights(self) -> Literal["fp32", "bf16", "fp16"]:
        """The type of weights and activations; what multiplies in 8 bits keeps them in 16."""
        return "bf16" if self.name == "fp8" else self.name

    @property
    def weight_bytes(self) -> int:
        """Bytes of an element of weights and activations."""
        return 4 if self.weights == "fp32" else 2

    @property
    def in_8_bits(self) -> bool:
        """Whether linear layers multiply numbers of 8 bits."""
        return self.name == "fp8"

    @property
    def scales_loss(self) -> bool:
        """Whether the loss is scaled, so that small gradients are not 0."""
        return self.name == "fp16"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Holds what every run that trains has; `objective` says what it learns."""

    run: RunConfig
    model: ModelConfig
    data: SamplesConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    engine: EngineConfig
    precision: PrecisionConfig
    train: TrainConfig
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def assumed(self) -> Self:
        """Returns the configuration with numbers in place of what only its data tell, for rules to go by."""
        return self

    @property
    def measured(self) -> tuple[str, ...]:
        """Names what an evaluation gives."""
        return self.objective.measured

    @property
    def named_sets_every(self) -> int:
        """Counts the steps between measurements of sets that have names; 0: at all evaluations."""
        return 0

    def grows(self, measure: str) -> bool:
        """Whether more of a measure is better."""
        return measure.partition("/")[0] in ("accuracy", *OF_PROBES)

    def checkpoint_beside(self, train: TrainConfig) -> CheckpointConfig:
        """Returns how checkpoints are kept, where `train` says what is None here: the best stays if the run may stop early."""
        checkpoint = self.checkpoint
        stopping = "loss" if train.early_stopping is None else train.early_stopping.metric or "loss"
        if train.early_stopping is not None and checkpoint.keep_best is None and stopping in self.measured:
            checkpoint = replace(checkpoint, keep_best=stopping)  # of others the rules tell once
        if checkpoint.keep_best is not None and self.grows(checkpoint.keep_best):
            checkpoint = replace(checkpoint, best_is="highest")
        return checkpoint

    def early_stopping_beside(self, checkpoint: CheckpointConfig) -> EarlyStoppingConfig | None:
        """Returns when the run stops early, complete."""
        asked = self.train.early_stopping
        if asked is None:
            return None
        metric = asked.metric or checkpoint.keep_best or "loss"
        grows = self.grows(metric) if asked.greater_is_better is None else asked.greater_is_better
        return replace(asked, metric=metric, greater_is_better=grows)

    if TYPE_CHECKING:

        @property
        def objective(self) -> ObjectiveConfig: ...


#: A configuration of some kind of training, which stays of that kind.
Training = TypeVar("Training", bound=TrainingConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainConfig(TrainingConfig):
    """One pretraining run, whole."""

    objective: ObjectiveConfig  # pyright: ignore[reportIncompatibleMethodOverride]
    data: DataConfig
    evaluate: EvaluationsConfig = field(default_factory=EvaluationsConfig)

    @property
    def measured(self) -> tuple[str, ...]:
        of_sets = (
            measure
            for named in self.evaluate.tasks
            for measure in named.measured(self.objective, pseudo=self.model.is_encoder)
        )
        return (*self.objective.measured, *of_sets)

    @property
    def named_sets_every(self) -> int:
        return self.evaluate.every or 0

    def grows(self, measure: str) -> bool:
        name, _, rest = measure.partition("/")
        return TrainingConfig.grows(self, rest if name in (named.name for named in self.evaluate.tasks) else measure)

    def assumed(self) -> Self:
        """Returns the configuration with what follows from measures filled in, which is all that may be missing."""
        checkpoint = self.checkpoint_beside(self.train)
        train = replace(self.train, early_stopping=self.early_stopping_beside(checkpoint))
        return replace(self, checkpoint=checkpoint, train=train)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitConfig:
    """How launch/submit.py goes about it. `check_data` opens the store, and looks at what the run begins with, before
    anything is queued. `force` queues also what a plan says cannot fit into the GPU that cluster.gpu names. `rehearse` goes
    through a step of some ranks first, and queues nothing where these disagree."""

    dry_run: bool = False
    force: bool = False
    rehearse: bool = False
    watch: bool = False
    check_data: bool = True


@dataclass(frozen=True, kw_only=True)  # no slots: a run's class, which has some, could not stand beside it as a base
class JobConfig:
    """Says of a submitted run which `command` trains it, and how many nodes it gets. With `min_nodes` it also starts on fewer,
    down to that many."""

    command: str
    nodes: Annotated[int, between(1, 65_533)]  # Slurm's own limit
    min_nodes: Count | None = None
    submit: SubmitConfig = field(default_factory=SubmitConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionConfig(PretrainConfig, JobConfig):
    """A pretraining run that is submitted."""

    command: Literal["pretrain"] = "pretrain"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig(PretrainConfig):
    """A pretraining run that is planned. `search` compares process grids, of which it shows the `top` fastest; `calibrate` is
    the directory of a short run on the same GPUs, or of several, `picture` a file of HTML to draw."""

    search: bool = False
    top: Count = 8
    calibrate: str | None = None
    picture: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearseConfig(PretrainConfig):
    """A pretraining run that is rehearsed. `json` names a file that gets all that was seen."""

    json: str | None = None
