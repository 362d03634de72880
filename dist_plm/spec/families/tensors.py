"""Tells the table of a model's tensors, and writes the parts of it that families share."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from dist_plm.spec.families.base import ModelConfig, StackSpec, known
from dist_plm.spec.families.lora import ADAPTERS

#: How often a matrix is multiplied: for each token that is read, that a decoder writes, that is predicted, or once a
#: row.
Vectors = Literal["read", "written", "predicted", "sample"]


@dataclass(frozen=True, slots=True)
class Init:
    """Says what a tensor begins with; `deviation` of the normal distribution."""

    kind: Literal["normal", "ones", "zeros"]
    deviation: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Describes one logical tensor of a model, without the padding of the vocabulary.

    Args:
        name: canonical.
        split: dim cut over tensor-parallel ranks; None where each holds the whole.
        depth: of embeddings 0, of layers their number from 1, of heads one more than the last layer's.
        multiplies: the vectors that it is multiplied with; None where it is looked up or added.
    """

    name: str
    shape: tuple[int, ...]
    split: int | None
    depth: int
    init: Init
    multiplies: Vectors | None = None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@lru_cache(maxsize=16)
def tensors_of(model: ModelConfig) -> tuple[TensorSpec, ...]:
    """Lists all tensors of a finalised model, those of tied weights once."""
    table = TensorTable(model)
    table.embedding()
    for stack in model.stacks():
        table.stack(stack)
    table.heads()
    return tuple(table.rows)


@lru_cache(maxsize=16)
def head_of(model: ModelConfig) -> frozenset[str]:
    """Names the tensors of a finalised model that lie above its stacks; those of tied weights are the embedding's."""
    table = TensorTable(model)
    table.heads()
    return frozenset(row.name for row in table.rows)


def shapes_of(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a finalised model's tensors by canonical name."""
    return {tensor.name: tensor.shape for tensor in tensors_of(model)}


class TensorTable:
    """Collects the rows of a finalised model."""

    def __init__(self, model: ModelConfig) -> None:
        self.model = model
        self.rows: list[TensorSpec] = []

    def heads(self) -> None:
        """Adds what lies above the stacks."""
        if self.model.predicts_tokens:
            self.model.add_heads(self)
        else:
            self.model.add_task_head(self)

    def matrix(
        self,
        name: str,
        shape: tuple[int, int],
        *,
        depth: int,
        split: int | None = None,
        multiplies: Vectors | None = None,
    ) -> None:
        init = Init("normal", self.model.deviation(name))
        self.rows.append(TensorSpec(name=name, shape=shape, split=split, depth=depth, init=init, multiplies=multiplies))

    def bias(self, name: str, size: int, *, depth: int, split: int | None = None) -> None:
        self.rows.append(TensorSpec(name=name, shape=(size,), split=split, depth=depth, init=Init("zeros")))

    def norm(self, name: str, size: int, *, depth: int) -> None:
        self.rows.append(TensorSpec(name=f"{name}.weight", shape=(size,), split=None, depth=depth, init=Init("ones")))
        if self.model.norm == "layernorm":
            self.bias(f"{name}.bias", size, depth=depth)

    def linear(
        self,
        name: str,
        outputs: int,
        inputs: int,
        *,
        depth: int,
        split: int | None = None,
        bias: bool = True,
        multiplies: Vectors,
    ) -> None:
        """Adds a linear layer. Split over its outputs its bias is, too; over its inputs, every rank adds the whole."""
        self.matrix(f"{name}.weight", (outputs, inputs), depth=depth, split=split, multiplies=multiplies)
        if bias:
            self.bias(f"{name}.bias", outputs, depth=depth, split=0 if split == 0 else None)

    def embedding(self) -> None:
        """Adds word embedding, learned positions, segments and norm."""
        model, size = self.model, self.model.word_size
        shape = known(model.vocab_size, "vocab_size"), size
        self.matrix(
            "embedding.word.weight",
            shape,
            depth=0,
            split=0,
            multiplies="predicted" if model.tied_embeddings and model.predicts_tokens else None,
        )
        if model.position == "learned":
            rows = known(model.max_positions, "max_positions") + model.position_offset
            self.matrix("embedding.position.weight", (rows, size), depth=0)
        if model.segments:
            self.matrix("embedding.segment.weight", (model.segments, size), depth=0)
        if model.normalises_embeddings:
            self.norm("embedding.norm", size, depth=0)

    def output(self, *, bias: bool = False) -> None:
        """Adds what predicts tokens, but for a matrix that is tied to the word embedding."""
        model, depth = self.model, self.model.top + 1
        rows = known(model.vocab_size, "vocab_size")
        if not model.tied_embeddings:
            shape = rows, model.word_size
            self.matrix("output.weight", shape, depth=depth, split=0, multiplies="predicted")
        if bias:
            self.bias("output.bias", rows, depth=depth, split=0)

    def token_head(self, network: ModelConfig) -> None:
        """Adds what predicts masked tokens from the hidden states of an encoder's `network`: dense layer, norm, output."""
        depth, size = self.model.top + 1, network.word_size
        self.linear("transform.dense", size, network.hidden, depth=depth, multiplies="predicted")
        self.norm("transform.norm", size, depth=depth)
        self.output(bias=True)

    def stack(self, stack: StackSpec) -> None:
        """Adds layers, what precedes them, and a norm after the last."""
        self.model.add_inputs(self, stack)
        for layer in range(stack.layers):
            self._layer(stack, f"{stack.prefix}layers.{layer}.", stack.below + layer + 1)
        if self.model.ends_with_norm:
            self.norm(f"{stack.prefix}final_norm", stack.network.hidden, depth=stack.top + 1)

    def _layer(self, stack: StackSpec, name: str, depth: int) -> None:
        own: Vectors = "written" if stack.is_decoder else "read"
        self._attention(stack.network, f"{name}attention", depth, own, own)
        if stack.is_decoder:
            self._attention(stack.network, f"{name}cross", depth, own, "read")
        self._mlp(stack.network, f"{name}mlp", depth, own)

    def _attention(self, model: ModelConfig, name: str, depth: int, own: Vectors, others: Vectors) -> None:
        """Adds attention of `own` tokens to `others`."""
        head_size = known(model.head_size, "head_size")
        rows = {"query": model.heads * head_size, "key": known(model.kv_heads, "kv_heads") * head_size}
        rows["value"] = rows["key"]
        self.norm(f"{name}_norm", model.hidden, depth=depth)
        for kind, outputs in rows.items():
            vectors = own if kind == "query" else others
            self._of_layer(model, f"{name}.{kind}", outputs, model.hidden, depth, split=0, multiplies=vectors)
        self._of_layer(model, f"{name}.output", model.hidden, rows["query"], depth, split=1, multiplies=own)

    def _mlp(self, model: ModelConfig, name: str, depth: int, own: Vectors) -> None:
        ffn, hidden = known(model.ffn, "ffn"), model.hidden
        self.norm(f"{name}_norm", hidden, depth=depth)
        for kind in ("gate", "up") if model.activation in ("swiglu", "geglu") else ("up",):
            self._of_layer(model, f"{name}.{kind}", ffn, hidden, depth, split=0, multiplies=own)
        self._of_layer(model, f"{name}.down", hidden, ffn, depth, split=1, multiplies=own)

    def _of_layer(
        self, model: ModelConfig, name: str, outputs: int, inputs: int, depth: int, *, split: int, multiplies: Vectors
    ) -> None:
        """Adds a linear layer, and its adapter where it has one: A begins as in PEFT, with the deviation of
        uniform numbers up to 1 / sqrt(inputs), and B at 0."""
        self.linear(name, outputs, inputs, depth=depth, split=split, bias=model.bias, multiplies=multiplies)
        lora = model.lora
        if lora is None or name.rpartition(".")[2] not in lora.targets:
            return
        first, second = Init("normal", (3 * inputs) ** -0.5), Init("zeros")
        shapes = ((lora.rank, inputs), (outputs, lora.rank))
        splits = (None, 0) if split == 0 else (1, None)
        for part, shape, cut, init in zip(ADAPTERS, shapes, splits, (first, second), strict=True):
            row = TensorSpec(
                name=f"{name}.{part}", shape=shape, split=cut, depth=depth, init=init, multiplies=multiplies
            )
            self.rows.append(row)
