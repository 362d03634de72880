"""Finds the tensors that a rank holds, from the family's own table and the pipeline's own cut."""

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

from dist_plm.spec.derived import padded_vocab_size
from dist_plm.spec.families.base import ModelConfig, StackSpec, known
from dist_plm.spec.families.tensors import TensorSpec, tensors_of
from dist_plm.spec.freezing import frozen_tensors
from dist_plm.spec.pipeline import layers_of_chunk
from dist_plm.spec.schema import ParallelConfig


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """One tensor as a rank holds it.

    Args:
        spec: of the logical tensor.
        shape: of the rank's part, the vocabulary padded.
        copy: the second copy of a tied weight, on the last stage.
        trained: it has a gradient.
    """

    spec: TensorSpec
    shape: tuple[int, ...]
    copy: bool = False
    trained: bool = True

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Stage:
    """Holds what the ranks of one pipeline stage have.

    Args:
        layers: of each chunk, in the order they run; of models that are no chain, all of every stack.
        lowest: depth of the lowest tensor of the whole model that is trained.
        numel, trained_numel: elements of all tensors, and of those that have a gradient, which a search asks for many times.
        told: what was found of it before, which a search asks for as often.
    """

    number: int
    stages: int
    layers: tuple[range, ...]
    tensors: tuple[HeldTensor, ...]
    lowest: int = 0
    numel: int = field(init=False, compare=False)
    trained_numel: int = field(init=False, compare=False)
    told: dict[Hashable, Any] = field(init=False, compare=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numel", sum(one.numel for one in self.tensors))
        object.__setattr__(self, "trained_numel", sum(one.numel for one in self.tensors if one.trained))

    @property
    def is_first(self) -> bool:
        return self.number == 0

    @property
    def is_last(self) -> bool:
        return self.number == self.stages - 1

    def layers_of(self, stack: StackSpec) -> "list[LayerKind]":
        """Groups the layers of a stack that this stage holds by what of them is trained."""
        of_stack = stack.prefix, stack.layers, stack.below
        if of_stack not in self.told:
            self.told[of_stack] = self._layers_of(stack)
        return self.told[of_stack]

    def _layers_of(self, stack: StackSpec) -> "list[LayerKind]":
        numbers = [layer for chunk in self.layers for layer in chunk] if self.stages > 1 else list(range(stack.layers))
        by_layer: dict[int, list[HeldTensor]] = {}
        for held in self.tensors:
            if held.spec.name.startswith(f"{stack.prefix}layers."):
                by_layer.setdefault(held.spec.depth - stack.below - 1, []).append(held)
        kinds: dict[tuple[tuple[bool, ...], bool], list[int]] = {}
        for number in numbers:
            flags = tuple(held.trained for held in by_layer[number])
            kinds.setdefault((flags, self.lowest <= stack.below + number), []).append(number)
        return [LayerKind(len(alike), tuple(by_layer[alike[0]]), flows) for (_, flows), alike in kinds.items()]


@dataclass(frozen=True, slots=True)
class LayerKind:
    """Describes layers that are alike.

    Args:
        count: of them.
        tensors: of one.
        flows: something below it is trained, so that a gradient passes through it.
    """

    count: int
    tensors: tuple[HeldTensor, ...]
    flows: bool = True

    @property
    def runs_backward(self) -> bool:
        return self.flows or any(held.trained for held in self.tensors)

    def trains(self, *parts: str) -> bool:
        """Whether a matrix, or an adapter, of one of these linear layers is trained, as in "mlp.up"."""
        return any(
            held.trained and f".{part}." in held.spec.name and not held.spec.name.endswith(".bias")
            for held in self.tensors
            for part in parts
        )


def padded(model: ModelConfig, tensor: int) -> ModelConfig:
    """The finalised model with as many rows of its vocabulary as tensor ranks hold together."""
    vocab_size = padded_vocab_size(known(model.vocab_size, "vocab_size"), model.vocab_multiple, tensor)
    return replace(model, vocab_size=vocab_size)


def stages_of(model: ModelConfig, parallel: ParallelConfig, freeze: tuple[str, ...] = ()) -> list[Stage]:
    """The stages of a finalised model's pipeline, first to last.

    Args:
        freeze: as train.freeze has it.
    """
    return [_cut(model, parallel, number, freeze) for number in range(parallel.pipeline)]


def unlike_stages(model: ModelConfig, parallel: ParallelConfig, freeze: tuple[str, ...] = ()) -> list[Stage]:
    """The first stage, one of those between, and the last; all of them where those between are not alike, because some
    layers are not trained or stages have not as many each."""
    if freeze or parallel.stage_layers is not None:
        return stages_of(model, parallel, freeze)
    numbers = sorted({0, min(1, parallel.pipeline - 1), parallel.pipeline - 1})
    return [_cut(model, parallel, number, freeze) for number in numbers]


def _cut(model: ModelConfig, parallel: ParallelConfig, number: int, freeze: tuple[str, ...]) -> Stage:
    # Of one model many grids and batches are compared.
    return _cached_stage(replace(model, recompute="none"), _Cut.of(parallel), number, freeze)


class _Cut(NamedTuple):
    """Holds what a stage's tensors depend on."""

    tensor: int
    pipeline: int
    virtual_pipeline: int
    stage_layers: tuple[int, ...] | None

    @classmethod
    def of(cls, parallel: ParallelConfig) -> "_Cut":
        return cls(parallel.tensor, parallel.pipeline, parallel.virtual_pipeline, parallel.stage_layers)


@lru_cache(maxsize=64)
def _cached_stage(model: ModelConfig, cut: _Cut, number: int, freeze: tuple[str, ...]) -> Stage:
    return _stage(model, _held(model, cut.tensor, freeze), cut, number)


@lru_cache(maxsize=16)
def _held(model: ModelConfig, tensor: int, freeze: tuple[str, ...]) -> list[HeldTensor]:
    frozen = frozen_tensors(model, freeze)
    shapes = (one.shape for one in tensors_of(padded(model, tensor)))
    return [
        HeldTensor(one, _local(one, shape, tensor), trained=one.name not in frozen)
        for one, shape in zip(tensors_of(model), shapes, strict=True)
    ]


def _stage(model: ModelConfig, table: list[HeldTensor], parallel: _Cut, number: int) -> Stage:
    stages, chunks = parallel.pipeline, parallel.virtual_pipeline
    cut = [
        layers_of_chunk(model.layers, number, stages, chunk, chunks, parallel.stage_layers) for chunk in range(chunks)
    ]
    layers = tuple(cut)
    depths = {layer + 1 for chunk in layers for layer in chunk}
    if number == 0:
        depths.add(0)
    if number == stages - 1:
        depths.add(model.top + 1)
    tensors = [one for one in table if stages == 1 or one.spec.depth in depths]
    tensors += _copies(model, table, parallel, number)
    lowest = min((one.spec.depth for one in table if one.trained), default=model.top + 1)
    return Stage(number, stages, layers, tuple(tensors), lowest)


def _copies(model: ModelConfig, table: list[HeldTensor], parallel: _Cut, number: int) -> Iterator[HeldTensor]:
    """Yields the copy of a tied weight, which the output of the last stage multiplies."""
    if model.tied_embeddings and 0 < number == parallel.pipeline - 1:
        words = next(one for one in table if one.spec.name == "embedding.word.weight")
        yield replace(words, copy=True)


def _local(one: TensorSpec, shape: tuple[int, ...], tensor: int) -> tuple[int, ...]:
    return tuple(size // tensor if dim == one.split else size for dim, size in enumerate(shape))
