"""Declares what every task's section has: what is learned from rows that people labelled."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from dist_plm.config.types import Count, Fraction
from dist_plm.spec.families.base import Head, Kind, ModelConfig
from dist_plm.spec.objectives.base import ObjectiveConfig, SampleRows, TokensConfig
from dist_plm.spec.rules.sections import repeated

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case


class Column(NamedTuple):
    """A column that a task reads.

    Args:
        names: it goes by, of which the first that a file has counts.
        optional: files may lack it.
    """

    names: tuple[str, ...]
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class TaskConfig(ObjectiveConfig):
    """Says what is learned from labelled rows."""

    section: ClassVar[str] = "task"
    #: What it reads of a row, by the names that data.columns calls them.
    columns: ClassVar[Mapping[str, Column]]
    #: The one of them that a model is to say. Rows that are not measured may lack it.
    answer: ClassVar[str] = "label"
    #: What an evaluation measures beside the loss; the first tells which checkpoint is best.
    measures: ClassVar[tuple[str, ...]]
    #: The setting that bounds what of an answer is learned and scored, and what is told of rows that have more.
    answer_bound: ClassVar[str] = "data.sequence_length"
    told_of_long: ClassVar[str] = (
        "the answer is longer than {bound} = {most} tokens, and what is beyond is neither learned nor scored"
    )
    #: Measures of which less is better.
    falling: ClassVar[tuple[str, ...]] = ("loss",)
    #: Columns of its examples that measures alone read, and that are no part of a batch.
    scoring: ClassVar[tuple[str, ...]] = ()
    #: Words of its texts may be changed while they are learned: what is learned of them stays.
    takes_changed_words: ClassVar[bool] = False
    #: What a model writes is measured, beside what should be written.
    measures_text: ClassVar[bool] = False
    #: Its models write: what they say of a row is a text of their own.
    writes: ClassVar[bool] = False
    #: Kinds of networks that need no head for it: its labels or choices are texts, and the likeliest is what they say.
    by_likelihood: ClassVar[tuple[Kind, ...]] = ()
    least_length: ClassVar[int] = 4

    @classmethod
    def suits(cls, model: ModelConfig | type[ModelConfig]) -> bool:
        return model.kind in cls.by_likelihood or super().suits(model)

    @classmethod
    def head_of(cls, model: ModelConfig | type[ModelConfig]) -> Head:
        return "language_model" if model.kind in cls.by_likelihood else cls.head

    @property
    def measured(self) -> tuple[str, ...]:
        return ("loss", *self.measures)

    @property
    def columns_to_ask(self) -> Mapping[str, Column]:
        """Returns what it reads of rows that may lack what a model is to say."""
        answer = self.columns[self.answer]._replace(optional=True)
        return {**self.columns, self.answer: answer}

    def grows(self, measure: str) -> bool:
        """Whether more of a measure is better."""
        return measure in self.measures and measure not in self.falling

    def is_written(self, measures: Collection[str]) -> bool:
        """Whether evaluations in training have the model write, where `measures` decide which checkpoint is best."""
        return False

    @property
    def finds_labels(self) -> bool:
        """Whether its labels are still to be found in the training data."""
        return False

    @property
    def counts_labels(self) -> bool:
        """Whether what a label loses depends on how often it stands in the training data."""
        return False

    def with_labels(self, found: Iterable[str]) -> Self:
        """Returns the task with the labels of its training data."""
        raise NotImplementedError

    @property
    def chat_template(self) -> str | None:
        """Gives the template that writes dialogues out; None where there are none."""
        return None

    def with_template(self, found: str | None) -> Self:
        """Returns the task with the chat template of the tokenizer, of a task that has dialogues and no template yet."""
        return self

    @property
    def reads_twice(self) -> bool:
        """Whether each training row is read twice, and what is said of it compared."""
        return False

    def rows_of_sample(self, model: ModelConfig) -> SampleRows:
        return SampleRows(read=2 if self.reads_twice else 1)

    def with_choices(self, found: int) -> Self:
        """Returns the task with as many choices for a row as its training data have, of a task that has choices.

        Raises:
            ConfigError: a setting says another number.
        """
        return self

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names what the model scores, in the order of the scores; empty where that has no names."""
        return ()

    def longest_answer(self, sequence_length: int, *, has_decoder: bool) -> int:
        """Returns how many tokens a model writes at most, of a task that writes."""
        return sequence_length

    @classmethod
    def of_problem(cls, problem: str | None) -> Self | None:
        """Returns the task that a model with its head has learned, where `problem` is the problem_type of its config.json; None
        where that is of another."""
        task = cls()  # pyright: ignore[reportCallIssue]
        return task if None in (problem, task.problem_type) or problem == task.problem_type else None

    @property
    def problem_type(self) -> str | None:
        """Names what is learned, as Hugging Face's classes for sequences do; None of other tasks."""
        return None


@dataclass(frozen=True, kw_only=True)
class LabelsConfig(TaskConfig):
    """A task with a set of labels. `labels` names them in the order of the model's scores; where there are none they are those
    of the training data: numbers in their order, names in that of the alphabet.

    What a label loses counts `class_weights` times, 1 where it is not named, or with `balanced` in inverse proportion to how
    often the label stands in the training data, 1 on average (scikit-learn's "balanced"). `label_smoothing` is the share that
    all classes get of what is learned, as in PyTorch's cross_entropy. The loss is divided by the number of labels."""

    labels: tuple[str, ...] = ()
    class_weights: dict[str, Any] = field(default_factory=dict)
    balanced: bool = False
    label_smoothing: Fraction = 0.0

    @property
    def num_labels(self) -> int:
        return len(self.labels) or 2  # until the data tell them

    @property
    def counts_labels(self) -> bool:
        return self.balanced

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.labels

    @property
    def finds_labels(self) -> bool:
        return not self.labels

    def with_labels(self, found: Iterable[str]) -> Self:
        return replace(self, labels=tuple(sorted(dict.fromkeys(found), key=_as_people_count)))

    def problems(self, case: "Case") -> Iterator[str]:
        if twice := sorted(repeated(self.labels)):
            yield f"task.labels names {', '.join(map(repr, twice))} more than once: name each label once"
        elif len(self.labels) == 1:
            yield f"task.labels = [{self.labels[0]}] is a single label, and there is nothing to tell apart: name two or more"
        known = set(self.labels)
        for label, weight in self.class_weights.items():
            if known and label not in known:
                yield f"task.class_weights.{label} is of no label; the labels are {', '.join(self.labels)}"
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                yield f"task.class_weights.{label} = {weight!r} is not allowed: it must be a number of 0 or more"
        if self.class_weights and self.balanced:
            yield "task.class_weights and task.balanced are both given: keep one"


@dataclass(frozen=True, kw_only=True)
class WritingConfig(TaskConfig, TokensConfig):
    """A task whose models write.

    With `measure_writing`, or where a measure of texts tells which checkpoint is best, each evaluation has the model answer the
    first `written_rows` of the validation rows (None: all), and measures its answers beside those that the rows hold. BLEU
    splits texts by sacrebleu's `bleu_tokenizer`."""

    writes: ClassVar[bool] = True
    of_loss: ClassVar[tuple[str, ...]] = (*TokensConfig.of_loss, "bleu_tokenizer")
    #: What is measured of texts.
    text_measures: ClassVar[tuple[str, ...]] = ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "exact_match")

    measure_writing: bool = False
    bleu_tokenizer: Literal["13a", "zh", "char"] = "13a"
    written_rows: Count | None = None

    @property
    def measured(self) -> tuple[str, ...]:
        return ("loss", *self.measures, *self.text_measures)

    def grows(self, measure: str) -> bool:
        return measure in self.text_measures or super().grows(measure)

    def is_written(self, measures: Collection[str]) -> bool:
        return self.measure_writing or not set(self.text_measures).isdisjoint(measures)


def _as_people_count(label: str) -> tuple[bool, float, str]:
    try:
        number = float(label)
    except ValueError:
        return (True, 0.0, label)
    return (True, 0.0, label) if math.isnan(number) else (False, number, label)  # "nan" has no place among numbers
