"""Every setting of launch/finetune.py, as frozen dataclasses; see schema.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from dist_plm.config.decode import encode
from dist_plm.config.types import Count, Natural, Positive
from dist_plm.spec.augmentation import AugmentConfig
from dist_plm.spec.schema import JobConfig, PretrainConfig, SamplesConfig, TrainingConfig
from dist_plm.spec.schema_run import CheckpointConfig, TrainConfig
from dist_plm.spec.tasks import TaskConfig

#: Rows of a pass where nobody says how many.
MOST_OF_A_PASS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledDataConfig(SamplesConfig):
    """Labelled rows: CSV, TSV, JSON lines, Parquet or Arrow (text also .gz or .zst), a CoNLL file, or a directory that
    `save_to_disk` of `datasets` wrote; of one with splits, those of the same names.

    `columns` tells what files call the columns that the task reads, where it is none of the usual names: {label: stars}.
    `header` names the columns of files without a line that does. `test` is not read: a finished run says how it is measured on
    it. `tokenizer` is a file or directory of one; None takes that of model.init_from or train.init_from. Texts longer than
    `sequence_length` tokens lose their ends. `new_tokens` are words that the tokenizer gets beside its own, found in texts as
    they are written, and `new_special_tokens` marks that chat templates write; the run keeps the tokenizer that has them.
    `augment` changes words of the training texts."""

    train: str
    validation: str | None = None
    test: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    header: tuple[str, ...] = ()
    tokenizer: str | None = None
    new_tokens: tuple[str, ...] = ()
    new_special_tokens: tuple[str, ...] = ()
    augment: AugmentConfig | None = None

    @property
    def adds_tokens(self) -> bool:
        """Whether the run's tokenizer gets more tokens."""
        return bool(self.new_tokens or self.new_special_tokens)

    @property
    def stream_settings(self) -> dict[str, Any]:
        return {} if self.augment is None else {"data.augment": encode(self.augment)}

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(path for path in (self.train, self.validation) if path is not None)

    @property
    def to_measure(self) -> str:
        return self.test or self.validation or self.train


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneTrainConfig(TrainConfig):
    """How a fine-tuning run goes. Derived when None: `micro_batch` from the ranks, `steps` from `epochs`, `num_samples` =
    epochs x training rows, `eval_every` = steps of an epoch, `eval_samples` = all validation rows."""

    init_optimizer: Literal["keep", "restart", "none"] = "none"
    steps: Count | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    micro_batch: Count | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    epochs: Positive | None = None
    num_samples: Count | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    eval_every: Natural | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    eval_samples: Natural | None = None  # pyright: ignore[reportIncompatibleVariableOverride]

    def fitted(self, data: int, pipeline: int) -> Self:
        if self.micro_batch is not None:
            return self
        share, left = divmod(self.global_batch, data)
        share = 1 if left else max(share, 1)  # what is left over is refused, whatever a pass takes
        share = share if share % pipeline else share // pipeline
        most = max(size for size in range(1, MOST_OF_A_PASS + 1) if share % size == 0)
        return replace(self, micro_batch=most)

    @property
    def longer(self) -> str:
        """The setting of a run that learns for longer."""
        return f"train.steps={2 * (self.steps or 1)}" if self.epochs is None else f"train.epochs={2 * self.epochs:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """One fine-tuning run, whole."""

    task: TaskConfig
    data: LabelledDataConfig
    train: FinetuneTrainConfig

    def assumed(self) -> Self:
        train, many = self.train, 2**40
        train = replace(
            train,
            steps=train.steps or many,
            eval_every=1 if train.eval_every is None else train.eval_every,
            eval_samples=many if train.eval_samples is None else train.eval_samples,
        )
        return replace(self, train=train, checkpoint=self.checkpoint_beside(train))

    @property
    def measured(self) -> tuple[str, ...]:
        return self.task.measured

    def grows(self, measure: str) -> bool:
        return self.task.grows(measure)

    def checkpoint_beside(self, train: TrainConfig) -> CheckpointConfig:
        """Returns how checkpoints are kept, where `train` says what is None here: with each evaluation where the best stays."""
        checkpoint = TrainingConfig.checkpoint_beside(self, train)
        if checkpoint.keep_best is not None and checkpoint.every == 0:
            checkpoint = replace(checkpoint, every=train.eval_every or 0)
        return checkpoint

    @property
    def writes_when_evaluated(self) -> bool:
        """Whether evaluations have the model write."""
        stopping = self.train.early_stopping
        return self.task.is_written(
            [name for name in (self.checkpoint.keep_best, stopping and stopping.metric) if name]
        )

    @property
    def objective(self) -> TaskConfig:
        """Says what the model learns."""
        return self.task


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneSubmissionConfig(FinetuneConfig, JobConfig):
    """A fine-tuning run that is submitted."""

    command: Literal["finetune"] = "finetune"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneRehearsalConfig(FinetuneConfig):
    """A fine-tuning run that is rehearsed. `json` names a file that gets all that was seen."""

    json: str | None = None


def kind_of(settings: Any) -> type[PretrainConfig] | type[FinetuneConfig]:
    """Tells which kind of training the settings of a run are of: fine-tuning alone has a task."""
    return FinetuneConfig if isinstance(settings, Mapping) and "task" in settings else PretrainConfig
