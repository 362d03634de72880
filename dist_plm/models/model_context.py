"""Holds what all modules of one model share: the frozen configuration, the process groups, types and devices."""

import copy
from dataclasses import dataclass, replace

import torch
from megatron.core.transformer import TransformerConfig

from dist_plm.distributed.groups import Groups
from dist_plm.spec.objectives.base import CROSS_ENTROPY, TokenLoss
from dist_plm.spec.schema import ModelConfig


@dataclass(frozen=True, slots=True)
class ModelContext:
    """Holds what all modules of one model share.

    Args:
        model: finalised, so no size in it is None.
        megatron: the same facts in Megatron-core's terms; its linear layers and schedules read it.
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
