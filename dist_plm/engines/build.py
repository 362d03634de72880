"""Chooses the engine that a configuration names."""

from collections.abc import Mapping, Sequence

import torch

from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import Engine
from dist_plm.models.chunk import ModelChunk
from dist_plm.objectives.base import LossTerm
from dist_plm.spec.schema import PretrainConfig


def build_engine(
    config: PretrainConfig,
    groups: Groups,
    device: torch.device,
    model: Sequence[ModelChunk],
    losses: Mapping[str, LossTerm],
) -> Engine:
    """Args:
    model: the chunks of this rank, in the order it runs them.
    losses: the parts of the loss by name, as the objective tells them.
    """
    # Imported here: each brings a library that takes seconds to load and that the other does without.
    if config.engine.name == "deepspeed":
        from dist_plm.engines.deepspeed.engine import build_deepspeed

        return build_deepspeed(config, groups, device, model, losses)
    from dist_plm.engines.megatron.engine import build_megatron

    return build_megatron(config, groups, device, model, losses)
