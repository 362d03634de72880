"""Registers the optimizers by name: one section class each here, and one body of the same name in dist_plm/optim/."""

from dist_plm.config.variants import Variants
from dist_plm.spec.optimizers.adafactor import AdafactorConfig
from dist_plm.spec.optimizers.adam import AdamConfig, AdamWConfig
from dist_plm.spec.optimizers.base import OptimConfig
from dist_plm.spec.optimizers.lamb import LambConfig
from dist_plm.spec.optimizers.muon import MuonConfig
from dist_plm.spec.optimizers.sgd import SgdConfig

OPTIMIZERS: Variants[OptimConfig] = Variants(
    OptimConfig,
    "name",
    {
        "adamw": AdamWConfig,
        "adam": AdamConfig,
        "lamb": LambConfig,
        "sgd": SgdConfig,
        "adafactor": AdafactorConfig,
        "muon": MuonConfig,
    },
    owed=("moments",),
)
