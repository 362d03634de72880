"""Registers the objectives by name: one section class each here, and one body in dist_plm/objectives/."""

from dist_plm.config.variants import Variants
from dist_plm.spec.families.base import ModelConfig
from dist_plm.spec.objectives.base import ObjectiveConfig
from dist_plm.spec.objectives.causal import CausalConfig
from dist_plm.spec.objectives.mlm import MlmConfig
from dist_plm.spec.objectives.mlm_pairs import MlmNspConfig, MlmSopConfig
from dist_plm.spec.objectives.prefix_lm import PrefixLmConfig
from dist_plm.spec.objectives.rtd import RtdConfig
from dist_plm.spec.objectives.span import SpanConfig
from dist_plm.spec.objectives.ul2 import Ul2Config

OBJECTIVES: Variants[ObjectiveConfig] = Variants(
    ObjectiveConfig,
    "name",
    {
        "causal": CausalConfig,
        "mlm": MlmConfig,
        "mlm_nsp": MlmNspConfig,
        "mlm_sop": MlmSopConfig,
        "span": SpanConfig,
        "rtd": RtdConfig,
        "prefix_lm": PrefixLmConfig,
        "ul2": Ul2Config,
    },
    owed=("body", "learners", "loss_terms"),
)


def objectives_of(model: ModelConfig | type[ModelConfig]) -> list[str]:
    """Lists the objectives that models of a family learn from, by name."""
    return [name for name, objective in OBJECTIVES.items() if objective.suits(model)]
