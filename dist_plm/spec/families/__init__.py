"""Registers the model families by name: one section class each here, and one network each in dist_plm/models/."""

from dist_plm.config.variants import Variants
from dist_plm.spec.families.base import ModelConfig
from dist_plm.spec.families.bert import BertConfig
from dist_plm.spec.families.electra import ElectraConfig
from dist_plm.spec.families.gpt import GPTConfig
from dist_plm.spec.families.roberta import RobertaConfig
from dist_plm.spec.families.t5 import T5Config
from dist_plm.spec.families.transformer import TransformerConfig

FAMILIES: Variants[ModelConfig] = Variants(
    ModelConfig,
    "family",
    {
        "gpt": GPTConfig,
        "bert": BertConfig,
        "roberta": RobertaConfig,
        "electra": ElectraConfig,
        "t5": T5Config,
        "transformer": TransformerConfig,
    },
    owed=("kind", "stacks", "add_heads"),
)
