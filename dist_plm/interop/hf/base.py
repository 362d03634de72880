"""Declares how Hugging Face stores a kind of model: what each file of this folder says about its `model_type`."""

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dist_plm.config.decode import show
from dist_plm.core.errors import CheckpointError
from dist_plm.spec.families.base import Head
from dist_plm.spec.schema import ModelConfig

if TYPE_CHECKING:  # so that the command line reads sizes without PyTorch
    from torch import Tensor

    from dist_plm.interop.hf.checkpoint_tokenizer import CheckpointTokenizer

Half = Literal["generator", "discriminator"]

#: Begin the names of weights that only serve to predict: a network is complete without them.
HEADS = ("transform.", "output.", "pair.", "detector.", "head.")
#: And those of tasks.
TASK_HEADS = ("head.",)
#: Our names of activations by Hugging Face's.
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
#: And the other way round.
ACTIVATION_NAMES = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
#: Settings that neither the weights nor what they compute depends on.
_FREE = (
    "vocab_multiple",
    "hidden_dropout",
    "attention_dropout",
    "classifier_dropout",
    "init_std",
    "recompute",
    "pair_head",
    "head",
    "num_labels",
    "init_from",
    "new_rows",
    "lora",
)
#: Settings that are read with some kinds of `position` alone.
_OF_POSITION = {
    "max_positions": ("learned",),
    "position_offset": ("learned",),
    "rotary_base": ("rotary",),
    "relative_buckets": ("relative",),
    "relative_distance": ("relative",),
}
#: Sizes that the halves of ELECTRA have each for itself, and what the generator's are called.
_SIZES = ("hidden", "layers", "heads", "kv_heads", "head_size", "ffn")
GENERATOR_SIZES = ("generator_hidden", "generator_layers", "generator_heads", "generator_ffn")


@dataclass(frozen=True, slots=True)
class HFTensor:
    """Names one logical tensor in Hugging Face's state dict.

    Args:
        name: canonical name of the logical tensor.
        hf: name in Hugging Face's state dict.
        transposed: Hugging Face stores [in, out] (GPT-2's Conv1D).
        part: (index, count) where Hugging Face fuses `count` tensors along their outputs.
    """

    name: str
    hf: str
    transposed: bool = False
    part: tuple[int, int] | None = None

    def logical(self, stored: "Tensor") -> "Tensor":
        """Takes the logical tensor, as a view, out of what Hugging Face stores."""
        tensor = stored.T if self.transposed else stored
        return tensor if self.part is None else tensor.chunk(self.part[1])[self.part[0]]

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Tells the shape that Hugging Face stores of a logical tensor of `shape`."""
        if self.part is not None:
            shape = (shape[0] * self.part[1], *shape[1:])
        return shape[::-1] if self.transposed else shape


class Settings:
    """Reads the settings of a config.json; what is asked for and missing is refused."""

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self.content, self.where = content, where

    def __getitem__(self, name: str) -> Any:
        if self.content.get(name) is None:
            raise CheckpointError(f"{self.where} has no {name}")
        return self.content[name]

    def get(self, name: str, default: Any) -> Any:
        value = self.content.get(name)
        return default if value is None else value

    def one_of(self, name: str, known: Mapping[Any, Any], default: Any) -> Any:
        """Translates a setting by `known`."""
        value = self.get(name, default)
        if value not in known:
            choices = ", ".join(show(choice) for choice in known)
            raise CheckpointError(f"{self.where}: {name} = {show(value)} is not supported, {choices} alone")
        return known[value]

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Reads a setting that holds others; an empty one where there is none."""
        value = self.get(name, {})
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self.where}: {name} = {show(value)} has to hold settings by their names")
        return value

    def must_be(self, name: str, value: Any) -> None:
        self.one_of(name, {value: value}, value)


class HFModel(ABC):
    """Translates models of one `model_type` between Hugging Face and us, in both directions.

    Attributes:
        model_type: as config.json calls it.
        family: what we call it.
        classes: those whose weights are read, and which of our HEADS each has to have; of other heads what there is will do.
        task_classes: those with the head of a task, and which; they have to have all of it.
        network_class: the one without heads, where it is saved without the prefix.
        prefix: precedes the names of the network where it is part of a class that predicts.
        head_names: begin Hugging Face's names of heads.
        copies: second names under which older files hold a tensor once more.
        idle: names of tensors that older files hold though they can be computed, or though nothing reads them.
        left_out: names of heads that our models do not have.
        task_left_out: and below the head of a task.
        first_names: first parts of names by which files without a `model_type` are recognised.
        word: Hugging Face's name of the word embedding, by which the tensors of a whole model are recognised; None where
            nothing but config.json tells what they are.
        halves: the two models that one of ours is stored as.
    """

    model_type: ClassVar[str]
    family: ClassVar[str]
    classes: ClassVar[Mapping[str, tuple[str, ...]]]
    task_classes: ClassVar[Mapping[str, Head]] = {}
    network_class: ClassVar[str | None] = None
    prefix: ClassVar[str]
    head_names: ClassVar[tuple[str, ...]] = ("lm_head.",)
    copies: ClassVar[Mapping[str, str]]
    idle: ClassVar[re.Pattern[str]] = re.compile(r"(^|\.)position_ids$")
    left_out: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")
    task_left_out: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")
    first_names: ClassVar[tuple[str, ...]]
    word: ClassVar[str | None] = None
    halves: ClassVar[tuple[Half, ...]] = ()

    def stores(self, model: ModelConfig) -> bool:
        """Tells whether Hugging Face stores such a model as this type."""
        return model.family == self.family

    @abstractmethod
    def read_settings(self, settings: Settings) -> dict[str, Any]:
        """Translates config.json to values of ModelConfig."""

    @abstractmethod
    def write_settings(self, model: ModelConfig) -> dict[str, Any]:
        """Translates a finalised model, or the network of one half, to config.json, but for its class and token numbers."""

    @abstractmethod
    def tensors(self, model: ModelConfig, half: Half | None = None) -> Iterator[HFTensor]:
        """Names all tensors of a finalised model, or of one half; those that Hugging Face ties to another are left out, as
        they are stored once."""

    @abstractmethod
    def class_of(self, tensors: Collection[str], half: Half | None) -> str:
        """Names the class that holds the weights of these canonical names, but for those with the head of a task."""

    def class_with(self, head: Head) -> str:
        """Names the class with the head of a task."""
        return next(name for name, one in self.task_classes.items() if one == head)

    def halves_of(self, model: ModelConfig) -> "tuple[Half | None, ...]":
        """Lists the models that this one is stored as: two halves, or one whole."""
        return self.halves if self.halves and model.predicts_tokens else (None,)

    def needed_by(self, named: str | None) -> tuple[str, ...]:
        """Begins the names of the weights of heads that a class has to have."""
        return HEADS if named in self.task_classes else self.classes.get(named or "", ())

    @abstractmethod
    def token_numbers(self, tokens: "CheckpointTokenizer") -> dict[str, int | None]:
        """Gives the special tokens for config.json; null rather than a number of another vocabulary."""

    def differences_of_tokens(self, settings: Mapping[str, Any], tokens: "CheckpointTokenizer") -> Iterator[str]:
        """Yields what the class does otherwise by what its config.json says of tokens."""
        yield from ()

    def model_from_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
        """Tells as much of a model as the names and shapes of its tensors do: which there are, not how heads divide them."""
        raise NotImplementedError

    def with_all_heads(self, model: ModelConfig) -> ModelConfig:
        """Adds the heads that a model may or may not have."""
        return model

    def with_heads_of(self, model: ModelConfig, tensors: Collection[str]) -> ModelConfig:
        """Gives a model those optional heads that are among the canonical names `tensors`."""
        return model

    def network_of(self, model: ModelConfig, half: Half | None) -> ModelConfig:
        """Gives the network that one half of a finalised model is."""
        return model

    def left_to_others(self, settings: Mapping[str, Any]) -> Mapping[str, str]:
        """Names weights of their own in our model that files may leave out, as others were the same when they were saved, with
        the names of these."""
        return {}

    def half_of(self, names: Iterable[str]) -> Half | None:
        """Tells of which half these are the tensors, by Hugging Face's names."""
        return None

    def joined(self, halves: Sequence[ModelConfig], where: str) -> ModelConfig:
        """Makes one model of those that the files of its halves describe."""
        raise NotImplementedError

    def told_by(self, model: ModelConfig, settings: Mapping[str, Any], where: str) -> ModelConfig:
        """Leaves of a model what its one config.json does not tell out."""
        return model


def with_head_of(model: ModelConfig, theirs: HFModel, config: Mapping[str, Any]) -> ModelConfig:
    """Gives a model the head of the class that a config.json was saved from, where that is one of a task."""
    head = theirs.task_classes.get(architecture_of(config) or "")
    if head is None:
        return model
    return replace(model, head=head, num_labels={"choice": 1, "span": 2}.get(head) or len(labels_of(config)))


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names the labels of a config.json, in the order of the scores."""
    named = config.get("id2label")
    if not isinstance(named, dict) or not named:
        return tuple(f"LABEL_{number}" for number in range(config.get("num_labels") or 2))
    try:
        return tuple(str(named[key]) for key in sorted(named, key=int))
    except ValueError:
        raise CheckpointError(
            f"id2label names its labels by {', '.join(map(repr, named))}: they have to be numbers"
        ) from None


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """Names the class that a config.json was saved from, where it tells."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None


def differences(ours: ModelConfig, theirs: ModelConfig, half: Half | None = None) -> list[tuple[str, Any, Any]]:
    """Lists settings in which two models' weights, or what they compute with them, differ: name, ours, theirs.

    Args:
        half: of electra, where the weights of the one model are those of this half alone.
    """
    shared = {field.name for field in fields(theirs)}
    names = [field.name for field in fields(ours) if field.name in shared and field.name not in _FREE]
    if half == "discriminator" or not ours.predicts_tokens:
        names = [name for name in names if name not in GENERATOR_SIZES]
    if half == "generator":
        names = [name for name in names if name not in _SIZES]
    unread = [name for name, positions in _OF_POSITION.items() if ours.position not in positions]
    pairs = [(name, getattr(ours, name), getattr(theirs, name)) for name in names if name not in unread]
    return [pair for pair in pairs if pair[1] != pair[2]]


def affine(name: str, hf: str) -> Iterator[HFTensor]:
    """Names weight and bias of a module."""
    for kind in ("weight", "bias"):
        yield HFTensor(f"{name}.{kind}", f"{hf}.{kind}")


def count_layers(shapes: Mapping[str, tuple[int, ...]], stack: str) -> int:
    """Counts the layers whose tensors' names begin with `stack`."""
    numbers = [re.match(rf"{re.escape(stack)}\.(\d+)\.", name) for name in shapes]
    return max((int(number[1]) for number in numbers if number), default=-1) + 1
