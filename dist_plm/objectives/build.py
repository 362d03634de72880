"""Chooses the objective that a configuration names."""

from dist_plm.config.schema import ObjectiveConfig
from dist_plm.objectives.base import Objective
from dist_plm.objectives.causal import Causal


def build_objective(config: ObjectiveConfig) -> Objective:
    return {"causal": Causal}[config.name](config)
