"""Holds what all modules of one model share: the frozen configuration, the process groups, types and devices."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

from dist_plm.distributed.groups import Groups
from dist_plm.spec.objectives.base import CROSS_ENTROPY, TokenLoss
from dist_plm.spec.schema import ModelConfig

Tokens = TypeVar("Tokens", Tensor, "Tensor | None")


@dataclass(frozen=True, slots=True)
class ModelContext:
    """Holds what all modules of one model share.

    Args:
        model: finalised, so no size in it is None.
        megatron: the same facts in Megatron-core's terms; its linear layers and schedules read it.
        context_parallel: context ranks hold a slice of each sequence, and of the heads while they attend.
        stage_layers: of each stage's chunks, in the order of the model; as many each if None.
        in_8_bits: layers multiply numbers of 8 bits.
        vocab_size: rows of the embedding that stand for tokens; `padded_vocab_size` are stored.
        token_loss: what is learned of a predicted token.
    """

    model: ModelConfig
    megatron: TransformerConfig
    groups: Groups
    dtype: torch.dtype
    device: torch.device
    sequence_parallel: bool
    padded_vocab_size: int
    seed: int
    context_parallel: bool = False
    stage_layers: tuple[int, ...] | None = None
    in_8_bits: bool = False
    token_loss: TokenLoss = CROSS_ENTROPY

    def of(self, model: ModelConfig) -> "ModelContext":
        """The same for another network of the model."""
        return replace(self, model=model)

    @property
    def vocab_size(self) -> int:
        assert self.model.vocab_size is not None
        return self.model.vocab_size

    @property
    def heads(self) -> tuple[int, int, int]:
        """Heads, key-value heads and head size of the whole model."""
        model = self.model
        assert model.kv_heads is not None
        assert model.head_size is not None
        return model.heads, model.kv_heads, model.head_size

    @property
    def context_ranks(self) -> int:
        """Ranks that share a sequence, 1 where each holds whole ones."""
        return self.groups.grid.context if self.context_parallel else 1

    @property
    def context_index(self) -> int:
        """The place of this rank among `context_ranks`."""
        return self.groups.coordinates.context if self.context_parallel else 0

    @property
    def attending_heads(self) -> range:
        """The heads of the model that attend on this rank, over whole sequences."""
        count = self.model.heads // self.groups.grid.tensor // self.context_ranks
        first = count * (self.groups.coordinates.tensor * self.context_ranks + self.context_index)
        return range(first, first + count)

    def own(self, tokens: Tokens) -> Tokens:
        """Takes what this rank has of [1 or B, S], [1 or B, S / C]; all of it without context parallelism."""
        if tokens is None or self.context_ranks == 1:
            return tokens
        return tokens.chunk(self.context_ranks, dim=1)[self.context_index]

    @property
    def ffn(self) -> int:
        assert self.model.ffn is not None
        return self.model.ffn

    @property
    def embedding_size(self) -> int:
        return self.model.word_size

    @property
    def unsliced(self) -> TransformerConfig:
        """`megatron` for what works on whole sequences even under sequence parallelism."""
        config = copy.copy(self.megatron)
        config.sequence_parallel = False
        return config

    @property
    def slices(self) -> dict[str, int]:
        """Says which slice of the sequence this rank holds between the layers, and of how many."""
        index, ranks = self.context_index, self.context_ranks
        if self.sequence_parallel:
            tensor = self.groups.grid.tensor
            index, ranks = index * tensor + self.groups.coordinates.tensor, ranks * tensor
        return {"slice_index": index, "num_slices": ranks}


@contextmanager
def whole_sequences(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Has the modules of a model work without sequence and context parallelism, in passes without gradients: a model that
    writes reads one token at a time, which cannot be sliced, and texts are of any length. Weights are laid out alike with them
    and without."""
    before = [(module, name, value) for module in modules for name, value in vars(module).items()]
    changed = [(module, name, value) for module, name, value in before if _unsliced(name, value) is not value]
    for module, name, value in changed:
        setattr(module, name, _unsliced(name, value))
    try:
        yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)


def _unsliced(name: str, value: Any) -> Any:
    """Gives what an attribute of a module is with whole sequences, itself where that changes nothing."""
    if isinstance(value, ModelContext):
        is_sliced = value.sequence_parallel or value.context_parallel
        return replace(value, sequence_parallel=False, context_parallel=False) if is_sliced else value
    if name == "slices" and value["num_slices"] > 1:
        return {"slice_index": 0, "num_slices": 1}
    return False if name in ("sequence_parallel", "is_sliced") and value else value
