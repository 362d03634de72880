"""Builds the engine that a configuration names."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec

import torch

from dist_plm.config.extending.bodies import build_from
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import Engine
from dist_plm.engines.compiling import compile_model
from dist_plm.engines.engine_settings import EngineSettings
from dist_plm.models.chunk import ModelChunk
from dist_plm.objectives.base import LossTerm


def build_engine(
    settings: EngineSettings,
    groups: Groups,
    device: torch.device,
    model: Sequence[ModelChunk],
    losses: Mapping[str, LossTerm],
) -> Engine:
    """Builds the engine that its settings name.

    Args:
        model: the chunks of this rank, in the order it runs them.
        losses: the parts of the loss by name, as the objective tells them.
    Raises:
        ConfigError: the configuration asks for what this machine cannot.
    """
    compile_model(settings, device, model)
    # Imported here: each brings a library that takes seconds to load and that the others do without.
    engine = settings.engine
    arguments = (settings, groups, device, model, losses)
    return build_from(f"engine.name = {engine.name!r}", engine.body_module, *arguments)


def absent_ranks(settings: EngineSettings) -> AbstractContextManager[None]:
    """Has an engine, within the block, take for agreed what it would ask ranks that are not there."""
    name = f"dist_plm.engines.{settings.engine.name}"
    if find_spec(f"{name}.absent_ranks") is None:
        return nullcontext()
    return import_module(f"{name}.absent_ranks").absent_ranks()
