"""Holds what all modules of one model share: the frozen configuration, the process groups, types and devices."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core.transformer import TransformerConfig
from torch import nn

from dist_plm.distributed.groups import Groups
from dist_plm.spec.objectives.base import CROSS_ENTROPY, TokenLoss
from dist_plm.spec.schema import ModelConfig


@dataclass(frozen=True, slots=True)
class ModelContext:
    """Holds what all modules of one model share.

    Args:
        model: finalised, so no size in it is None.
        megatron: the same facts in Megatron-core's terms; its linear layers and schedules read it.
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
        if not self.sequence_parallel:
            return {"slice_index": 0, "num_slices": 1}
        return {"slice_index": self.groups.coordinates.tensor, "num_slices": self.groups.grid.tensor}


@contextmanager
def whole_sequences(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Has the modules of a model work without sequence parallelism, in passes without gradients: a model that writes reads one
    token at a time, which cannot be sliced. Weights are laid out alike with it and without."""
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
    """Gives what an attribute of a module is without sequence parallelism, itself where that changes nothing."""
    if isinstance(value, ModelContext):
        return replace(value, sequence_parallel=False) if value.sequence_parallel else value
    if name == "slices" and value["num_slices"] > 1:
        return {"slice_index": 0, "num_slices": 1}
    return False if name in ("sequence_parallel", "is_sliced") and value else value
