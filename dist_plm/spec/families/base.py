"""Declares what every family's section has, and what the rest of the system asks of it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from dist_plm.config.extending.bodies import place_of
from dist_plm.config.types import Count, Fraction, Natural, Positive
from dist_plm.spec.families.lora import LoraConfig

if TYPE_CHECKING:
    from dist_plm.spec.families.tensors import TensorTable
    from dist_plm.spec.objectives import ObjectiveConfig
    from dist_plm.spec.schema import TrainingConfig

#: Feed-forward sizes derived for swiglu are rounded up to a multiple of this (Llama's `multiple_of`).
FFN_MULTIPLE = 256
#: Projections that write into the residual stream; their deviation shrinks with depth (Radford et al. 2019, section 2.3).
RESIDUAL_PROJECTIONS = ("attention.output.weight", "mlp.down.weight")

#: The module whose table has the network of each family.
NETWORKS_OF = "dist_plm.models.build"

#: Kinds of networks, by what they read and write.
Kind = Literal["decoder", "encoder", "discriminator", "encoder_decoder"]
#: What stands above the network: scores of the tokens of a vocabulary, of a whole sequence, of each token, of where a span
#: begins and ends, or of a sequence among those of which one is to be chosen.
Head = Literal["language_model", "sequence", "tokens", "span", "choice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The network. Derived when None: `kv_heads` = heads, `head_size` = hidden / heads, `ffn` = 4 hidden (8/3 hidden,
    rounded up to a multiple of 256, for swiglu), `vocab_size` from the data, `max_positions` = data.sequence_length, or as many
    as a decoder writes where that is more. `head` and `num_labels` follow the objective or task; `lora` adds adapters, which
    are trained in place of the rest. `new_rows` lets the vocabulary have more tokens than the weights that a run begins with:
    as the mean of the others' rows, or random."""

    family: str
    layers: Count  # of the encoder, where there is a decoder as well
    hidden: Count
    heads: Count
    kv_heads: Count | None = None
    head_size: Count | None = None
    ffn: Count | None = None
    vocab_size: Count | None = None
    vocab_multiple: Count = 128  # the vocabulary is padded to a multiple of this times parallel.tensor
    max_positions: Count | None = None
    position: Literal["learned", "sinusoidal", "rotary", "relative", "none"] = "learned"
    position_offset: Natural = 0  # rows of the table before the first position: 2 in RoBERTa
    rotary_base: Positive = 10000.0
    activation: Literal["gelu", "gelu_tanh", "relu", "swiglu", "geglu"] = "gelu_tanh"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_placement: Literal["pre", "post"] = "pre"  # before each half of a layer, or after its residual sum
    norm_eps: Positive = 1e-5
    bias: bool = True
    tied_embeddings: bool = True
    hidden_dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    init_std: Positive = 0.02
    init_from: str | None = None  # directory of Hugging Face whose weights a new run begins with
    recompute: Literal["none", "selective", "full"] = "none"
    head: Head = "language_model"
    num_labels: Natural = 0
    new_rows: Literal["mean", "random"] | None = None
    lora: LoraConfig | None = None

    #: Objectives say which kinds learn from them.
    kind: ClassVar[Kind]
    #: The heads that it can have.
    possible_heads: ClassVar[tuple[Head, ...]] = ("language_model",)
    #: It has a head that predicts something about pairs of segments.
    predicts_pairs: ClassVar[bool] = False
    #: It reads whole sequences, and predicts some of their tokens.
    is_encoder: ClassVar[bool] = False
    #: A decoder writes what it is to predict, token by token.
    has_decoder: ClassVar[bool] = False
    #: Word embeddings are multiplied by the root of their size (Vaswani et al. 2017, section 3.4).
    scales_words: ClassVar[bool] = False
    #: Attention divides by the root of the head size.
    scales_scores: ClassVar[bool] = True
    #: position=relative is known.
    has_relative_positions: ClassVar[bool] = False
    #: There is a class of Hugging Face for it.
    is_in_hugging_face: ClassVar[bool] = True

    #: What a family that does not have these settings is like.
    embedding_size: ClassVar[int | None] = None
    segments: ClassVar[int] = 0
    pair_head: ClassVar[bool | None] = None
    window: ClassVar[int] = 0
    global_tokens: ClassVar[int] = 0

    def stacks(self) -> "tuple[StackSpec, ...]":
        """Lists the stacks of layers of a finalised model."""
        raise NotImplementedError

    def add_heads(self, table: "TensorTable") -> None:
        """Adds what predicts tokens above the stacks to the table of tensors."""
        raise NotImplementedError

    def add_task_head(self, table: "TensorTable") -> None:
        """Adds any other head in its place."""
        raise NotImplementedError

    def add_inputs(self, table: "TensorTable", stack: "StackSpec") -> None:
        """Adds what lies between the embeddings and the layers of a stack."""

    def derive(self, objective: "ObjectiveConfig") -> Self:
        """Fills sizes in that are None and follow from others or from the objective."""
        head = objective.head_of(self)
        return replace(
            self,
            kv_heads=self.kv_heads or self.heads,
            head_size=self.head_size or max(1, self.hidden // self.heads),
            ffn=self.ffn or self._default_ffn(),
            head=head,
            num_labels=0 if head == "language_model" else objective.num_labels,
        )

    def problems(self, config: "TrainingConfig") -> Iterator[str]:
        """Yields a sentence for each thing wrong with what this family alone has, or asks of the rest of `config`."""
        yield from ()

    def size_problems(self) -> Iterator[str]:
        """Yields a sentence for each thing wrong with the sizes that this family alone has, whatever it is to learn."""
        yield from ()

    def deviation(self, name: str) -> float:
        """Returns the deviation from which the matrix `name` is drawn."""
        shrinks = self.norm_placement == "pre" and name.endswith(RESIDUAL_PROJECTIONS)
        return self.init_std / math.sqrt(2.0 * self.layers) if shrinks else self.init_std

    @property
    def has_position_table(self) -> bool:
        """Whether there are places for `max_positions` tokens of a sequence alone."""
        return self.position in ("learned", "sinusoidal")

    @property
    def position_limit(self) -> int | None:
        """The most tokens of a sequence; None where positions know no end."""
        return self.max_positions if self.has_position_table else None

    @property
    def predicts_tokens(self) -> bool:
        """Whether it ends with scores of the tokens of its vocabulary."""
        return self.head == "language_model"

    @property
    def scores_sequences(self) -> bool:
        """Whether it ends with scores of whole sequences."""
        return self.head in ("sequence", "choice")

    @property
    def scores_labels(self) -> bool:
        """Whether each of its scores is a label's."""
        return self.head in ("sequence", "tokens")

    @property
    def is_chain(self) -> bool:
        """Whether its layers are one chain, which pipelines cut into stages."""
        return True

    @property
    def draws_tokens(self) -> bool:
        """Whether a pass draws tokens, with dropout or without."""
        return False

    @property
    def head_dropout(self) -> float:
        """Share of what a head reads that is dropped."""
        return 0.0

    @property
    def scales_output(self) -> bool:
        """Whether hidden states are divided by the root of their size before the output."""
        return False

    @property
    def normalises_embeddings(self) -> bool:
        """Whether a norm follows the embeddings."""
        return self.is_encoder and self.norm_placement == "post"

    @property
    def ends_with_norm(self) -> bool:
        """Whether a norm follows the last layer of a stack."""
        return self.norm_placement == "pre"

    @property
    def word_size(self) -> int:
        """Size of the vectors that stand for words."""
        return self.embedding_size or self.hidden

    @property
    def top(self) -> int:
        """Depth of the last layer of a finalised model."""
        return max(stack.top for stack in self.stacks())

    def _default_ffn(self) -> int:
        """4 hidden (Vaswani et al. 2017); 8/3 hidden with swiglu, whose third matrix makes up for it (Shazeer 2020)."""
        if self.activation != "swiglu":  # T5 v1.1 gives its own size for geglu
            return 4 * self.hidden
        return -(-8 * self.hidden // (3 * FFN_MULTIPLE)) * FFN_MULTIPLE


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSpec:
    """Describes layers that follow each other.

    Args:
        prefix: begins the names of their tensors.
        network: sizes.
        below: depth of what the first one reads.
        is_decoder: they run on the tokens that are written, and attend to those that are read as well.
    """

    prefix: str
    network: ModelConfig
    layers: int
    below: int = 0
    is_decoder: bool = False

    @property
    def top(self) -> int:
        """Depth of the last layer."""
        return self.below + self.layers


def no_network(model: ModelConfig) -> str:
    """Says of a family that it has no network."""
    return (
        f"model.family = {model.family!r} is registered without a network: enter it in NETWORKS of "
        f"{place_of(NETWORKS_OF)}; docs/extend.md says how"
    )


def known(size: int | None, name: str) -> int:
    """Returns a size of a finalised model."""
    assert size is not None, f"model.{name} has to be resolved before anything is counted"
    return size
