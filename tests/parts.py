"""Builds parts of a run for tests, from its whole configuration."""

from collections.abc import Mapping, Sequence

import torch

from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import Engine
from dist_plm.engines.build import build_engine
from dist_plm.models import build as models
from dist_plm.models.chunk import ModelChunk
from dist_plm.models.model_context import ModelContext
from dist_plm.models.sharding import ShardSpec
from dist_plm.objectives.base import LossTerm
from dist_plm.spec.freezing import frozen_tensors
from dist_plm.spec.schema import PretrainConfig
from dist_plm.train.build import engine_settings


def model_of(config: PretrainConfig, groups: Groups, device: torch.device) -> tuple[list[ModelChunk], list[ShardSpec]]:
    """Builds this rank's model chunks and the shard spec of their parameters."""
    frozen = frozen_tensors(config.model, config.train.freeze)
    sections = config.model, config.parallel, config.precision
    options = {"seed": config.train.seed, "token_loss": config.objective.token_loss}
    return models.build_model(*sections, groups, device, frozen=frozen, **options)


def model_context_of(config: PretrainConfig, groups: Groups, device: torch.device) -> ModelContext:
    """Builds what the modules of the model share."""
    return models.model_context_of(
        config.model, config.parallel, config.precision, groups, device, seed=config.train.seed
    )


def engine_of(
    config: PretrainConfig,
    groups: Groups,
    device: torch.device,
    model: Sequence[ModelChunk],
    losses: Mapping[str, LossTerm],
) -> Engine:
    """Builds the engine over model chunks."""
    return build_engine(engine_settings(config), groups, device, model, losses)
