"""What no field can know alone: a whole configuration is completed and checked before anything is started.

Each rule yields one sentence a problem, naming key, value and remedy; they are in the modules `rules_*`.
"""

from dist_plm.config.derived import Case, derive, num_microbatches, padded_vocab_size
from dist_plm.config.rules_convert import CONVERT_RULES
from dist_plm.config.rules_data import DATA_RULES
from dist_plm.config.rules_engine import ENGINE_RULES
from dist_plm.config.rules_fp8 import FP8_RULES
from dist_plm.config.rules_grid import GRID_RULES
from dist_plm.config.rules_model import MODEL_RULES
from dist_plm.config.rules_objective import OBJECTIVE_RULES
from dist_plm.config.rules_optim import OPTIM_RULES
from dist_plm.config.rules_prepare import PREPARE_RULES, verify_problems
from dist_plm.config.rules_training import TRAINING_RULES
from dist_plm.config.schema import PretrainConfig
from dist_plm.config.schema_convert import ConvertConfig
from dist_plm.config.schema_prepare import PrepareConfig, VerifyConfig
from dist_plm.errors import ConfigError

__all__ = ["check_convert", "check_prepare", "check_verify", "finalize", "num_microbatches", "padded_vocab_size"]


def finalize(config: PretrainConfig, *, world_size: int, vocab_size: int | None) -> PretrainConfig:
    """`config` complete and checked; finalising twice changes nothing.

    Args:
        world_size: ranks of the run.
        vocab_size: of the data's tokenizer; None where the data is not at hand: then `model.vocab_size` may stay None.
    Raises:
        ConfigError: with every rule that is broken.
    """
    assert world_size >= 1, world_size
    derived = derive(config, world_size=world_size, vocab_size=vocab_size)
    case = Case(config, derived, world_size, vocab_size)
    problems = [p for rule in (*GRID_RULES, *MODEL_RULES, *OBJECTIVE_RULES, *DATA_RULES) for p in rule(case)]
    problems += [p for rule in (*TRAINING_RULES, *OPTIM_RULES, *ENGINE_RULES, *FP8_RULES) for p in rule(derived)]
    if problems:
        raise ConfigError(problems)
    return derived


def check_convert(config: ConvertConfig) -> ConvertConfig:
    """`config` as it is.

    Raises:
        ConfigError: with every rule that is broken.
    """
    problems = [p for rule in CONVERT_RULES for p in rule(config)]
    if problems:
        raise ConfigError(problems)
    return config


def check_prepare(config: PrepareConfig) -> PrepareConfig:
    """`config` as it is.

    Raises:
        ConfigError: with every rule that is broken.
    """
    problems = [p for rule in PREPARE_RULES for p in rule(config)]
    if problems:
        raise ConfigError(problems)
    return config


def check_verify(config: VerifyConfig) -> VerifyConfig:
    """`config` as it is.

    Raises:
        ConfigError: its path cannot be one.
    """
    if problems := list(verify_problems(config)):
        raise ConfigError(problems)
    return config
