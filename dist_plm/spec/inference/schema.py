"""Every setting of launch/evaluate.py and launch/generate.py, as frozen dataclasses; see spec/schema.py."""

from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar, Literal

from dist_plm.config.bounds import Bounds
from dist_plm.config.types import Count, Natural, NonNegative, Positive, Prose
from dist_plm.spec.inference.evaluations import EvaluationDataConfig, NamedSetConfig, Pooling, Seed
from dist_plm.spec.inference.measurements import MEASUREMENTS, Measurement
from dist_plm.spec.schema import ParallelConfig, PrecisionConfig
from dist_plm.spec.schema_run import ClusterConfig
from dist_plm.spec.tasks import TaskConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig:
    """A model that runs without an optimizer: that of the run, the checkpoint or the directory of Hugging Face at `from`.

    `tokenizer` is a tokenizer's file or directory, or a store; None takes the one beside the weights, or that of the store that
    the run read. `batch_size` counts rows of one pass of a data rank."""

    from_: str | None = None
    tokenizer: str | None = None
    batch_size: Count = 8
    out: str | None = None
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    precision: PrecisionConfig = field(default_factory=lambda: PrecisionConfig(name="fp32"))
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    @property
    def asks_heads(self) -> bool:
        """Whether a model will do that predicts something else than tokens."""
        return False

    @property
    def asks_task(self) -> bool:
        """Whether it is asked what it was fine-tuned for."""
        return False

    @property
    def given_task(self) -> TaskConfig | None:
        """Gives that task, where a person says it."""
        return None

    @property
    def row_length(self) -> int | None:
        """Gives the tokens of a labelled row that are read at most; None: as many as in training."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig(InferenceConfig):
    """Says what is measured: the perplexity of documents, which of masked models is that of pseudo-log-likelihoods, or the
    losses that the model's objective has, or what a model that was fine-tuned for a `task` makes of labelled rows, kept in
    `predictions`. A directory of Hugging Face tells the task by its class and labels, or `task` does. What it writes has at
    most `max_new_tokens` (None: as in training), and is the most likely of `num_beams`. Or what a linear `probe`, which
    learns from vectors that the model as it is gives labelled rows (the mean of the last hidden states, or the first or last
    of them: `pooling`), tells of others. Or, without a model, the `contamination` of the set: how much of it stands, in runs
    of `ngram` words, in the training text, `data.against` or the store that the run read. Or what `tasks` of
    lm-evaluation-harness measure (`lm_eval`), those of the user's `task_folder` among them, behind `num_fewshot` examples
    (None: as each task says).

    A pass sees `window` tokens, of a task a row, None: as many as the model has positions, or was trained with. Windows move
    by `stride`; None: by their own length, so that no token is seen twice. Documents are read `apart`, each from its
    beginning, or `joined` to one text. Of more than `limit` documents the first are read; 0 reads all. `samples` lists so
    many documents that the model finds hardest, by loss a token.

    With `trackers` those of the run get the results, at the step of the checkpoint, as eval/NAME/…: `name`, or what was
    measured where it is None: objective, task, probe, lm_eval or, of perplexity, texts."""

    on: Literal["perplexity", "objective", "task", "probe", "contamination", "lm_eval"] = "perplexity"
    data: EvaluationDataConfig = field(default_factory=EvaluationDataConfig)
    task: TaskConfig | None = None
    tasks: tuple[str, ...] = ()
    task_folder: str | None = None
    num_fewshot: Natural | None = None
    window: Annotated[int, Bounds(low=2)] | None = None
    stride: Count | None = None
    documents: Literal["apart", "joined"] = "apart"
    limit: Natural = 0
    samples: Natural = 0
    max_new_tokens: Count | None = None
    num_beams: Count = 1
    bleu_tokenizer: Literal["13a", "zh", "char"] | None = None
    predictions: str | None = None
    pooling: Pooling = "mean"
    ngram: Annotated[int, Bounds(low=2, high=100)] = 13
    seed: Seed | None = None  # of what an objective draws: that of the run
    trackers: bool = False
    name: str | None = None

    @property
    def told_as(self) -> str:
        """Names the set in trackers, as no measure of validation samples is."""
        return self.name or self.measurement.told_as

    @property
    def measurement(self) -> Measurement:
        """Gives what `on` names."""
        return MEASUREMENTS[self.on]

    @property
    def asks_heads(self) -> bool:
        return self.measurement.asks_heads

    @property
    def asks_task(self) -> bool:
        return self.measurement.asks_task

    @property
    def given_task(self) -> TaskConfig | None:
        return self.task

    @property
    def row_length(self) -> int | None:
        return self.window if self.asks_task else None


def asked_of_run(named: NamedSetConfig, batch_size: int) -> EvaluateConfig:
    """Returns what launch/evaluate.py is asked for, where it measures what a run does."""
    shared = {field.name: getattr(named, field.name) for field in fields(named) if field.name != "name"}
    return EvaluateConfig(batch_size=batch_size, **shared)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateConfig(InferenceConfig):
    """How text goes on: that of `prompt`, or of each line of the file `prompts` (of a .jsonl its `column`).

    At `temperature` 0 the most likely token is taken (or with `num_beams` the most likely text), above 0 one is drawn, of the
    `top_k` most likely (0: all), and of the most likely that have the share `top_p` of the probability together. What is drawn
    is a function of the seed and the row's number alone. Each prompt goes on `samples` times. Text ends at the tokenizer's end
    of a document, before any of `stop`, or after `max_new_tokens`.

    With `chat` a prompt is what a user says, and the chat template of the tokenizer writes it out; without a prompt the user
    says it in the terminal, turn by turn.

    A text begins with a token of its own where documents did in training (`begin`; None: as the model is known to expect). Of
    a masked model the `best` tokens for each mask are shown."""

    #: Settings whose values are taken as the shell hands them over: text needs no quotes of its own.
    plain_text: ClassVar[tuple[str, ...]] = ("prompt",)

    prompt: Prose | None = None
    prompts: str | None = None
    column: str = "prompt"
    max_new_tokens: Count = 50
    temperature: NonNegative = 0.0
    top_k: Natural = 0
    top_p: Annotated[float, Bounds(low=0, high=1, low_open=True)] = 1.0
    repetition_penalty: Positive = 1.0
    num_beams: Count = 1
    samples: Count = 1
    stop: tuple[Prose, ...] = ()
    begin: bool | None = None
    chat: bool = False
    best: Count = 5
    seed: Seed = 1234

    @property
    def talks(self) -> bool:
        """Whether what is answered is typed in the terminal."""
        return self.chat and self.prompt is None and self.prompts is None
