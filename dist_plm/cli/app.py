"""The front that all launch scripts share: reads the command line, composes, decodes, checks, and only then runs.

Torch is not imported here, so that a wrong setting is refused within a second.
"""

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from dist_plm.cli.busy_machine import give_up_idle_cores
from dist_plm.cli.check_summary import summary
from dist_plm.cli.compose import compose
from dist_plm.cli.help import OPTIONS, help_text
from dist_plm.cli.overrides import as_plain
from dist_plm.cli.refusals import report
from dist_plm.cli.search_path import SearchPath
from dist_plm.cli.submitting.check_inference import check_inference
from dist_plm.cluster.check import check, check_here, check_run, run_of
from dist_plm.config.credentials import mask
from dist_plm.config.decode import decode, encode, flatten
from dist_plm.config.origins import Origin, complete, table, trace
from dist_plm.config.runfile import mapping_of, read, to_yaml
from dist_plm.config.suggest import did_you_mean, near
from dist_plm.core.errors import EXIT_FINISHED, ConfigError
from dist_plm.core.parsing import whole_number
from dist_plm.core.streams import code_of, leave, open_standard_streams, tell
from dist_plm.distributed.launch_env import from_environment
from dist_plm.plan.left_open import filled
from dist_plm.plan.search import planned
from dist_plm.spec.inference.schema import EvaluateConfig, GenerateConfig
from dist_plm.spec.inference.submissions import EvaluateSubmissionConfig, GenerateSubmissionConfig
from dist_plm.spec.prepare.schema import PrepareConfig, VerifyConfig
from dist_plm.spec.rules.finalize import (
    check_convert,
    check_evaluate,
    check_generate,
    check_prepare,
    check_samples_shown,
    check_verify,
    finalize,
)
from dist_plm.spec.samples_shown.schema import SamplesShownConfig
from dist_plm.spec.schema import JobConfig, PlanConfig, PretrainConfig, RehearseConfig, SubmissionConfig, TrainingConfig
from dist_plm.spec.schema_convert import ConvertConfig
from dist_plm.spec.schema_finetune import FinetuneConfig, FinetuneRehearsalConfig, FinetuneSubmissionConfig, kind_of

C = TypeVar("C")
CommandBody = Callable[[C, dict[str, Origin]], int | None]

#: Options that only print something.
PRINTING = {"-h", "--help", "--cfg", "--origin", "--check"}
#: Kind of a run's file -> what a command that takes the other kind says of it.
_OF_KIND: dict[type, str] = {
    PretrainConfig: "pretraining: launch/pretrain.py, plan.py and rehearse.py take it",
    FinetuneConfig: "fine-tuning: launch/finetune.py and rehearse.py take it, and finetune.py --check prints its plan",
}
_CHECKS: dict[type, Callable[[Any, int], Any]] = {
    PretrainConfig: lambda config, world_size: finalize(config, world_size=world_size, vocab_size=None),
    FinetuneConfig: lambda config, world_size: finalize(config, world_size=world_size, vocab_size=None),
    PlanConfig: lambda config, world_size: finalize(
        planned(run_of(config), world_size, searched=config.search), world_size=world_size, vocab_size=None
    ),
    RehearseConfig: lambda config, world_size: finalize(run_of(config), world_size=world_size, vocab_size=None),
    FinetuneRehearsalConfig: lambda config, world_size: finalize(
        run_of(config), world_size=world_size, vocab_size=None
    ),
    PrepareConfig: lambda config, world_size: check_prepare(config),
    VerifyConfig: lambda config, world_size: check_verify(config),
    ConvertConfig: lambda config, world_size: check_convert(config),
    SamplesShownConfig: lambda config, world_size: check_samples_shown(config),
    EvaluateConfig: lambda config, world_size: check_evaluate(config),
    GenerateConfig: lambda config, world_size: check_generate(config),
    # They say themselves how many ranks they ask for.
    SubmissionConfig: lambda config, world_size: check(config),
    FinetuneSubmissionConfig: lambda config, world_size: check(config),
    EvaluateSubmissionConfig: lambda config, world_size: check_inference(config),
    GenerateSubmissionConfig: lambda config, world_size: check_inference(config),
}


def main(config_class: type[C], config_name: str, run: CommandBody[C], doc: str | None) -> NoReturn:
    """Runs a launch script and exits: 0 finished, 2 refused with one message, otherwise what `run` returned.

    Args:
        config_class: what conf/`config_name`.yaml decodes into.
        run: gets the checked configuration, in which what is derived is still None, and each value's origin.
        doc: the script's docstring, which opens its help.
    """
    open_standard_streams()
    give_up_idle_cores(os.environ)
    sys.excepthook, threading.excepthook = tell_masked, lambda args: tell_masked(*args[:3])
    if PRINTING & set(sys.argv[1:]):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # what only prints ends quietly under `… | head`
    leave(front(sys.argv[1:], config_class, config_name, run, doc or ""))


def tell_masked(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Prints a traceback as Python does, without the credentials that stand in its messages and lines."""
    if kind is KeyboardInterrupt:
        tell("interrupted", sys.stderr)
    elif kind is not SystemExit:
        tell(mask("".join(traceback.format_exception(kind, error, trace))).rstrip("\n"), sys.stderr)


def front(arguments: Sequence[str], config_class: type[C], config_name: str, run: CommandBody[C], doc: str) -> int:
    """Does what `main` does, and returns the exit code."""
    return guarded(lambda: _dispatch(arguments, config_class, config_name, run, doc))


def guarded(act: Callable[[], int]) -> int:
    """Does what may be refused or interrupted, and returns the exit code."""
    return code_of(act, report)


def load(
    config_class: type[C], config_name: str, overrides: Sequence[str], config_dirs: Sequence[str] = ()
) -> tuple[C, dict[str, Origin]]:
    """Composes files and overrides and decodes them, with the origin of every value that a layer set.

    Args:
        config_dirs: where files are looked up beside conf/.
    Raises:
        ConfigError: with the problems of composing and of decoding together.
    """
    plain = getattr(config_class, "plain_text", ())
    composition = compose(
        config_name, [as_plain(text, plain) for text in overrides], SearchPath.with_sites(config_dirs)
    )
    problems = composition.problems
    try:
        config = decode(config_class, composition.values)
    except ConfigError as error:
        missing = tuple(f"{key} is missing" for key in composition.spoken_of)
        raise ConfigError(problems + [p for p in error.problems if not p.startswith(missing)]) from error
    if problems:
        raise ConfigError(problems)
    return config, trace(composition.layers)


def _load_frozen(config_class: type[C], path: str, overrides: Sequence[str]) -> tuple[C, dict[str, Origin]]:
    if overrides:
        raise ConfigError([f"--frozen {path} is a whole configuration: {' '.join(overrides)} cannot be added to it"])
    kind = kind_of(mapping_of(path))
    if issubclass(config_class, TrainingConfig) and not issubclass(config_class, kind):
        raise ConfigError([f"--frozen {path} is of {_OF_KIND[kind]}"])
    config = read(path, config_class)
    return config, {key: Origin(path) for key in flatten(encode(config))}


def _dispatch(arguments: Sequence[str], config_class: type[C], config_name: str, run: CommandBody[C], doc: str) -> int:
    chooses = config_class in (RehearseConfig, FinetuneRehearsalConfig)
    options = parse(arguments, planned=chooses or config_class is PlanConfig, chooses_ranks=chooses)
    if options.multirun and not options.help:
        raise ConfigError(["--multirun is for commands that train: start this one once for each value"])
    if options.help:
        print(help_text(config_name, doc, SearchPath.with_sites(options.config_dir)))
        return EXIT_FINISHED
    if options.frozen is not None:
        config, origins = _load_frozen(config_class, options.frozen, options.overrides)
    else:
        config, origins = load(config_class, config_name, options.overrides, options.config_dir)
    if options.cfg:
        print(to_yaml(encode(config)), end="")
        return EXIT_FINISHED
    world_size = _world_size(options)
    if isinstance(config, PlanConfig | RehearseConfig | FinetuneRehearsalConfig):
        config = filled(config, origins["train.global_batch"].source, world_size)
    if options.origin:
        return _print_origins(config, origins, world_size)
    # What is submitted is checked where it is, of a sweep all at once: that may read much.
    complete_config = checked(config, options) if options.check or not isinstance(config, JobConfig) else config
    if options.check:
        if isinstance(config, TrainingConfig) and not isinstance(config, JobConfig):
            complete_config = check_run(config, world_size, with_data=config.data.are_here)
            if options.world_size is None:
                check_here(config, world_size)
        print(mask(summary(complete_config, world_size)))
        return EXIT_FINISHED
    return run(config, complete(origins, encode(config), encode(config))) or EXIT_FINISHED


def checked(config: Any, options: argparse.Namespace) -> Any:
    """Completes a configuration and checks it by the rules for the ranks that there are, or are planned.

    Raises:
        ConfigError: with every rule that is broken.
    """
    return _CHECKS[type(config)](config, _world_size(options))


def _print_origins(config: Any, origins: Mapping[str, Origin], world_size: int) -> int:
    """The table is printed also where the rules refuse the configuration: it may show why."""
    decoded = encode(config)
    try:
        finalised = encode(_CHECKS[type(config)](config, world_size))
    except ConfigError:
        print(table(decoded, complete(origins, decoded, decoded)), flush=True)
        raise
    print(table(finalised, complete(origins, decoded, finalised)))
    return EXIT_FINISHED


def _world_size(options: argparse.Namespace, env: Mapping[str, str] = os.environ) -> int:
    """Counts the ranks of the run; where it is only planned, a batch script's or an allocation's tasks count too."""
    given, planned = options.world_size, options.planned or options.origin or options.check
    if given is not None:
        if not (number := whole_number(given)):
            raise ConfigError([f"--world-size {given} is not allowed: it must be a whole number, 1 or more"])
        return number
    if planned:
        for name in ("WORLD_SIZE", "SLURM_NTASKS"):
            if number := whole_number(env.get(name)):
                return number
    return from_environment(env).world_size


def planned_world_size(arguments: Sequence[str]) -> int:
    """Counts the ranks of a run that is only planned, from the command line or from a batch script's tasks."""
    return _world_size(parse(arguments, planned=True, chooses_ranks=True))


def parse(arguments: Sequence[str], *, planned: bool = False, chooses_ranks: bool = False) -> argparse.Namespace:
    """Tells options from overrides.

    Args:
        planned: the command trains nothing, and so may be told how many ranks there would be.
        chooses_ranks: the command may be told which of them are meant.
    Raises:
        ConfigError: an option is unknown or out of place.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.set_defaults(planned=planned)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job"])
    parser.add_argument("--frozen")
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    parser.add_argument("--origin", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--world-size")
    parser.add_argument("--ranks")
    parser.add_argument("--multirun", "-m", action="store_true")
    options, unknown = parser.parse_known_intermixed_args(list(arguments))
    problems = [_option_problem(option) for option in unknown]
    if options.frozen is not None and options.config_dir:
        problems.append(f"--config-dir has no effect with --frozen {options.frozen}, which is a whole configuration")
    if options.world_size is not None and not (options.planned or options.check or options.origin):
        problems.append(
            "--world-size belongs to --check and --origin, and to plan and rehearse: torchrun or srun says how many processes "
            "there are"
        )
    if options.ranks is not None and not chooses_ranks:
        problems.append("--ranks belongs to rehearse, which alone looks at some of a run's ranks")
    if problems:
        raise ConfigError(problems)
    return options


def settings_given(arguments: Sequence[str]) -> list[str]:
    """Gives the words of a command line that say how its configuration is composed, for commands that repeat them."""
    options = parse(arguments)
    return [*(word for folder in options.config_dir for word in ("--config-dir", folder)), *options.overrides]


def _option_problem(option: str) -> str:
    name = option.partition("=")[0]
    if "=" in option or "." in name:
        return f"{option} is not an option: settings are written without dashes, as in optim.lr=3e-4"
    return f"{option} is not an option{did_you_mean(near(name, OPTIONS))}; the options are {', '.join(OPTIONS)}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError([f"{message}; --help shows what there is"])
