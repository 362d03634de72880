"""Chooses the engine that a configuration names."""

from collections.abc import Sequence

import torch

from dist_plm.config.schema import PretrainConfig
from dist_plm.engines.base import Engine
from dist_plm.engines.megatron import build_megatron
from dist_plm.models.gpt import CausalLanguageModel
from dist_plm.parallel.groups import Groups


def build_engine(
    config: PretrainConfig, groups: Groups, device: torch.device, model: Sequence[CausalLanguageModel]
) -> Engine:
    return {"megatron": build_megatron}[config.engine.name](config, groups, device, model)
