"""--multirun: overrides with several values, spelled out as one list of overrides a run."""

import itertools
import math
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import Override

from dist_plm.cli.overrides import parse
from dist_plm.cluster.job import hydra_text
from dist_plm.core.errors import ConfigError
from dist_plm.spec.rules.checkpoint import shared_directories
from dist_plm.spec.schema import RunConfig
from dist_plm.spec.schema_run import CheckpointConfig

#: What a sweep may submit at once.
MAX_RUNS = 1000


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One run of a sweep: its overrides, and those among them that tell it from the others."""

    overrides: tuple[str, ...]
    own: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Names the run beside the others, as in lr=1e-4; empty where it names itself."""
        if any(text.startswith(("run.name=", "run.dir=")) for text in self.own):
            return ""
        return "-".join(map(_label, self.own))


def expand(overrides: Sequence[str]) -> list[SweepRun]:
    """Every combination of the values given, the last override varying fastest.

    Raises:
        ConfigError: values that cannot be listed.
    """
    alternatives = [_alternatives(text) for text in overrides]
    if math.prod(map(len, alternatives)) > MAX_RUNS:
        raise ConfigError([f"--multirun makes more than {MAX_RUNS:,} runs: submit fewer at a time"])
    swept = [len(values) > 1 for values in alternatives]
    return [
        SweepRun(combination, tuple(text for text, several in zip(combination, swept, strict=True) if several))
        for combination in itertools.product(*alternatives)
    ]


def named(choice: SweepRun, name: str) -> list[str]:
    """Gives the overrides of one run of a sweep, with a run.name of its own made from the `name` of all."""
    own = [f"run.name={hydra_text(f'{name}-{choice.label}')}"] if choice.label else []
    return [*choice.overrides, *own]


def refuse_frozen_sweep(options: Namespace) -> None:
    """Refuses --multirun of a whole configuration.

    Raises:
        ConfigError: both options were given.
    """
    if options.multirun and options.frozen is not None:
        raise ConfigError([f"--multirun has no effect with --frozen {options.frozen}, which is one run"])


def refuse_shared_directories(runs: Sequence[tuple[RunConfig, CheckpointConfig]]) -> None:
    """Refuses a sweep of which two runs would write into one directory.

    Raises:
        ConfigError: naming each directory that is shared.
    """
    if problems := list(shared_directories(runs)):
        raise ConfigError(problems)


def _alternatives(text: str) -> list[str]:
    """Lists the values of one override. What cannot be parsed stays as it is: composing tells what is wrong with it."""
    try:
        override = parse(text)
    except ConfigError:
        return [text]
    if not override.is_sweep_override():
        return [text]
    if not override.is_discrete_sweep() or _is_glob(override):
        raise ConfigError([f"{text} does not list its values: write KEY=a,b,c, KEY=choice(a,b,c) or KEY=range(0,3)"])
    values = itertools.islice(override.sweep_string_iterator(), MAX_RUNS + 1)
    return [f"{override.get_key_element()}={value}" for value in values]


def _is_glob(override: Override) -> bool:
    return type(override.value()).__name__ == "Glob"


def _label(text: str) -> str:
    key, _, value = text.lstrip("+").partition("=")
    return f"{key.rpartition('.')[2]}={re.sub(r'[^A-Za-z0-9_.+-]+', '_', value).strip('_')}"
