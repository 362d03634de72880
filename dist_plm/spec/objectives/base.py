"""Declares what every objective's section has, and what the rest of the system asks of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from dist_plm.config.types import Fraction, NonNegative
from dist_plm.spec.families.base import Head, Kind, ModelConfig

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case


def measures(loss_terms: Sequence[str]) -> tuple[str, ...]:
    """Lists what an evaluation gives of the parts of a loss, the first of which predicts tokens."""
    first, *others = loss_terms
    parts = [f"{name}/{term}" for term in (first, *others) for name in ("loss", "accuracy")]
    return ("loss", "perplexity", "accuracy", *((f"perplexity/{first}", *parts) if others else ()))


class SampleRows(NamedTuple):
    """Counts the rows that a model reads of a sample, and those that a decoder beside an encoder writes of it."""

    read: int = 1
    written: int = 1


ONE_ROW = SampleRows()


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """Says how the loss of a predicted token differs from its cross-entropy, in training alone.

    With a vocabulary of V tokens whose logits are x, and log Z = log(sum(exp(x))), a token y loses
    log Z - (1 - label_smoothing) x[y] - label_smoothing mean(x) + z_loss (log Z)^2.

    Args:
        label_smoothing: the share that all tokens get of what is learned (Szegedy et al. 2016, arXiv 1512.00567, section 7).
        z_loss: keeps log Z near 0 (Chowdhery et al. 2022, PaLM, arXiv 2204.02311, section 5).
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0


CROSS_ENTROPY = TokenLoss()


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Says what the model learns to predict."""

    #: The section of the configuration that it is.
    section: ClassVar[str] = "objective"
    #: The module of dist_plm/objectives/ that has its body.
    body: ClassVar[str]
    #: Kinds of networks that learn from it.
    learners: ClassVar[tuple[Kind, ...]]
    #: The parts of its loss, the first of which predicts tokens.
    loss_terms: ClassVar[tuple[str, ...]]
    #: Special tokens of the tokenizer that it cannot do without.
    special_tokens: ClassVar[tuple[str, ...]] = ()
    #: The least data.sequence_length that holds what it adds and two tokens of text.
    least_length: ClassVar[int] = 1
    #: It learns from rows of text, into which whole documents can be packed.
    learns_from_rows: ClassVar[bool] = False
    #: A window brings the token after its last, to be predicted.
    predicts_next: ClassVar[bool] = False
    #: What it asks about pairs of segments: whether the second is the next sentence, or whether they stand in order.
    pairs: ClassVar[Literal["nsp", "sop"] | None] = None
    #: A decoder reads the first tokens of a text both ways.
    opens_prefix: ClassVar[bool] = False
    #: Settings of the loss, which decide nothing about samples.
    of_loss: ClassVar[tuple[str, ...]] = ()
    #: The head that learns it.
    head: ClassVar[Head] = "language_model"

    name: str

    @classmethod
    def suits(cls, model: ModelConfig | type[ModelConfig]) -> bool:
        """Whether models of this family learn from it."""
        if cls.head != "language_model":
            return cls.head in model.possible_heads
        return model.kind in cls.learners and (cls.pairs is None or model.predicts_pairs)

    @classmethod
    def head_of(cls, model: ModelConfig | type[ModelConfig]) -> Head:
        """Returns the head with which models of this family learn it."""
        return cls.head

    @property
    def measured(self) -> tuple[str, ...]:
        """Names what an evaluation gives, as `checkpoint.keep_best` calls it."""
        return measures(self.loss_terms)

    @property
    def told_of_measures(self) -> str:
        """Says, behind its name, for which settings it gives fewer of these than with others; empty where for none."""
        return ""

    @property
    def body_module(self) -> str:
        """Names the module that has its body."""
        return f"dist_plm.objectives.{self.body}"

    @property
    def told(self) -> str:
        """Names it as sentences to people do."""
        return f"{self.section}.name = {self.name!r}"

    @property
    def needed_tokens(self) -> tuple[str, ...]:
        """The special tokens that these settings need."""
        return self.special_tokens

    @property
    def num_labels(self) -> int:
        """The scores that the head gives of a sequence or token, other than a language model's."""
        return 0

    @property
    def token_loss(self) -> TokenLoss:
        """Says what predicted tokens lose."""
        return CROSS_ENTROPY

    @property
    def isolates_documents(self) -> bool:
        """Whether tokens attend within their document alone."""
        return False

    @property
    def reads_prefix_both_ways(self) -> bool:
        """Whether a decoder that learned so reads a prompt both ways."""
        return self.opens_prefix

    @property
    def predicted_share(self) -> float:
        """The share of the tokens that the model computes predictions for."""
        return 1.0

    def target_length(self, sequence_length: int) -> int | None:
        """Returns the decoder's length beside an encoder's of `sequence_length`; None without a decoder of its own."""
        return None

    def longest_target(self, sequence_length: int) -> int | None:
        """Returns the most tokens that the decoder reads of a sample; None without a decoder of its own."""
        return self.target_length(sequence_length)

    def rows_of_sample(self, model: ModelConfig) -> SampleRows:
        """Returns how many rows a sample is in training."""
        return ONE_ROW

    def untold(self, model: ModelConfig) -> str | None:
        """Names the setting that says how many rows a sample is, where that is None and the data still have to tell it."""
        return None

    def problems(self, case: "Case") -> Iterator[str]:
        """Yields a sentence for each thing wrong with the objective's own settings, alone or within the configuration."""
        yield from ()


@dataclass(frozen=True, kw_only=True)
class TokensConfig(ObjectiveConfig):
    """An objective whose first part of the loss is of tokens. Evaluations measure their cross-entropy alone; see TokenLoss."""

    of_loss: ClassVar[tuple[str, ...]] = ("label_smoothing", "z_loss")

    label_smoothing: Fraction = 0.0  # 0.1 in Vaswani et al. 2017, section 5.4
    z_loss: NonNegative = 0.0  # 1e-4 in PaLM

    @property
    def token_loss(self) -> TokenLoss:
        return TokenLoss(self.label_smoothing, self.z_loss)
