"""Registers the engines by name: one section class each here, and one body in dist_plm/engines/NAME/engine.py."""

from dist_plm.config.variants import Variants
from dist_plm.spec.engines.base import EngineConfig
from dist_plm.spec.engines.deepspeed import DeepSpeedConfig
from dist_plm.spec.engines.megatron import MegatronConfig

ENGINES: Variants[EngineConfig] = Variants(
    EngineConfig, "name", {"megatron": MegatronConfig, "deepspeed": DeepSpeedConfig}, owed=("holding",)
)
