"""Finds the tensors that a rank holds, from the family's own table and the pipeline's own cut."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from dist_plm.spec.derived import padded_vocab_size
from dist_plm.spec.families.base import ModelConfig, known
from dist_plm.spec.families.tensors import TensorSpec, tensors_of
from dist_plm.spec.pipeline import layers_of_chunk
from dist_plm.spec.schema import ParallelConfig


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """One tensor as a rank holds it.

    Args:
        spec: of the logical tensor.
        shape: of the rank's part, the vocabulary padded.
        copy: the second copy of a tied weight, on the last stage.
    """

    spec: TensorSpec
    shape: tuple[int, ...]
    copy: bool = False

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Stage:
    """Holds what the ranks of one pipeline stage have.

    Args:
        layers: of each chunk, in the order they run; of models that are no chain, all of every stack.
    """

    number: int
    stages: int
    layers: tuple[range, ...]
    tensors: tuple[HeldTensor, ...]

    @property
    def is_first(self) -> bool:
        return self.number == 0

    @property
    def is_last(self) -> bool:
        return self.number == self.stages - 1

    @property
    def numel(self) -> int:
        return sum(tensor.numel for tensor in self.tensors)


def padded(model: ModelConfig, tensor: int) -> ModelConfig:
    """The finalised model with as many rows of its vocabulary as tensor ranks hold together."""
    vocab_size = padded_vocab_size(known(model.vocab_size, "vocab_size"), model.vocab_multiple, tensor)
    return replace(model, vocab_size=vocab_size)


def stages_of(model: ModelConfig, parallel: ParallelConfig) -> list[Stage]:
    """The stages of a finalised model's pipeline, first to last."""
    table = _held(replace(model, recompute="none"), parallel.tensor)
    return [_stage(model, table, parallel, number) for number in range(parallel.pipeline)]


def unlike_stages(model: ModelConfig, parallel: ParallelConfig) -> list[Stage]:
    """The first stage, one of those between, which have as many layers each, and the last."""
    table = _held(replace(model, recompute="none"), parallel.tensor)
    numbers = sorted({0, min(1, parallel.pipeline - 1), parallel.pipeline - 1})
    return [_stage(model, table, parallel, number) for number in numbers]


@lru_cache(maxsize=16)
def _held(model: ModelConfig, tensor: int) -> list[HeldTensor]:
    shapes = (one.shape for one in tensors_of(padded(model, tensor)))
    return [HeldTensor(one, _local(one, shape, tensor)) for one, shape in zip(tensors_of(model), shapes, strict=True)]


def _stage(model: ModelConfig, table: list[HeldTensor], parallel: ParallelConfig, number: int) -> Stage:
    stages, chunks = parallel.pipeline, parallel.virtual_pipeline
    layers = tuple(layers_of_chunk(model.layers, number, stages, chunk, chunks) for chunk in range(chunks))
    depths = {layer + 1 for chunk in layers for layer in chunk}
    if number == 0:
        depths.add(0)
    if number == stages - 1:
        depths.add(model.top + 1)
    tensors = [one for one in table if stages == 1 or one.spec.depth in depths]
    tensors += _copies(model, table, parallel, number)
    return Stage(number, stages, layers, tuple(tensors))


def _copies(model: ModelConfig, table: list[HeldTensor], parallel: ParallelConfig, number: int) -> Iterator[HeldTensor]:
    """Yields the copy of a tied weight, which the output of the last stage multiplies."""
    if model.tied_embeddings and 0 < number == parallel.pipeline - 1:
        words = next(one for one in table if one.spec.name == "embedding.word.weight")
        yield replace(words, copy=True)


def _local(one: TensorSpec, shape: tuple[int, ...], tensor: int) -> tuple[int, ...]:
    return tuple(size // tensor if dim == one.split else size for dim, size in enumerate(shape))
