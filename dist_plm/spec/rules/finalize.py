"""Completes and checks a whole configuration, which no field can know alone, before anything is started.

Each rule yields one sentence a problem, naming key, value and remedy; they are in the modules beside this one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from dist_plm.config.decode import encode
from dist_plm.config.messages import MOST, show
from dist_plm.core.errors import ConfigError
from dist_plm.spec.derived import Case, derive, num_microbatches, padded_vocab_size
from dist_plm.spec.inference.rules import EVALUATE_RULES, GENERATE_RULES
from dist_plm.spec.inference.schema import EvaluateConfig, GenerateConfig
from dist_plm.spec.prepare.rules import PREPARE_RULES, verify_problems
from dist_plm.spec.prepare.schema import PrepareConfig, VerifyConfig
from dist_plm.spec.rules.checkpoint import CHECKPOINT_RULES
from dist_plm.spec.rules.convert import CONVERT_RULES
from dist_plm.spec.rules.data import DATA_RULES
from dist_plm.spec.rules.fp8 import FP8_RULES
from dist_plm.spec.rules.grid import GRID_RULES
from dist_plm.spec.rules.model import MODEL_RULES
from dist_plm.spec.rules.named import NAMED_RULES
from dist_plm.spec.rules.training import TRAINING_RULES
from dist_plm.spec.samples_shown.rules import SAMPLES_SHOWN_RULES
from dist_plm.spec.samples_shown.schema import SamplesShownConfig
from dist_plm.spec.schema import Training
from dist_plm.spec.schema_convert import ConvertConfig

Config = TypeVar("Config")

__all__ = [
    "check_convert",
    "check_evaluate",
    "check_generate",
    "check_prepare",
    "check_samples_shown",
    "check_verify",
    "finalize",
    "num_microbatches",
    "padded_vocab_size",
]


def finalize(config: Training, *, world_size: int, vocab_size: int | None) -> Training:
    """`config` complete and checked; finalising twice changes nothing.

    Args:
        world_size: ranks of the run.
        vocab_size: of the data's tokenizer; None where the data is not at hand: then `model.vocab_size` may stay None.
    Raises:
        ConfigError: with every rule that is broken.
    """
    assert world_size >= 1, world_size
    _refuse_large_numbers(config)
    derived = derive(config, world_size=world_size, vocab_size=vocab_size)
    checked = derived.assumed()
    case = Case(config, checked, world_size, vocab_size)
    problems = [p for rule in (*GRID_RULES, *MODEL_RULES, *NAMED_RULES, *DATA_RULES) for p in rule(case)]
    of_run = (*TRAINING_RULES, *CHECKPOINT_RULES, *FP8_RULES)
    problems += [p for rule in of_run for p in rule(checked)]
    if problems:
        raise ConfigError(problems)
    return derived


def _checked(config: Config, rules: Iterable[Callable[[Config], Iterable[str]]]) -> Config:
    _refuse_large_numbers(config)
    if problems := [problem for rule in rules for problem in rule(config)]:
        raise ConfigError(problems)
    return config


def check_convert(config: ConvertConfig) -> ConvertConfig:
    """`config` as it is.

    Raises:
        ConfigError: with every rule that is broken.
    """
    return _checked(config, CONVERT_RULES)


def check_samples_shown(config: SamplesShownConfig) -> SamplesShownConfig:
    """`config` as it is.

    Raises:
        ConfigError: with every rule that is broken.
    """
    return _checked(config, SAMPLES_SHOWN_RULES)


def check_prepare(config: PrepareConfig) -> PrepareConfig:
    """`config` as it is.

    Raises:
        ConfigError: with every rule that is broken.
    """
    return _checked(config, PREPARE_RULES)


def check_evaluate(config: EvaluateConfig) -> EvaluateConfig:
    """`config` as it is.

    Raises:
        ConfigError: with every rule that is broken.
    """
    return _checked(config, EVALUATE_RULES)


def check_generate(config: GenerateConfig) -> GenerateConfig:
    """`config` as it is.

    Raises:
        ConfigError: with every rule that is broken.
    """
    return _checked(config, GENERATE_RULES)


def check_verify(config: VerifyConfig) -> VerifyConfig:
    """`config` as it is.

    Raises:
        ConfigError: its path cannot be one.
    """
    if problems := list(verify_problems(config)):
        raise ConfigError(problems)
    return config


def _refuse_large_numbers(config: Any) -> None:
    """Before any rule reckons with them, as floats or in arrays."""
    large = [(key, value) for key, value in _numbers("", encode(config)) if abs(value) > MOST]
    if large:
        raise ConfigError([f"{key} = {show(value)} is too large: no count is more than {MOST}" for key, value in large])


def _numbers(key: str, value: Any) -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(f"{key}.{name}" if key else str(name), inner)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _numbers(f"{key}[{i}]", inner)
    elif isinstance(value, int):
        yield key, value
