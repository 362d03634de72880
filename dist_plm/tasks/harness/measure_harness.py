"""Measures what tasks of lm-evaluation-harness measure."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from dist_plm.config.suggest import did_you_mean, near
from dist_plm.core.errors import ConfigError, DataError, UserError, described
from dist_plm.distributed.collectives import gather, on_each
from dist_plm.spec.inference.schema import EvaluateConfig
from dist_plm.tasks.inference.open_model import FoundModel, Session, build_runner, check_heads

T = TypeVar("T")

#: Tokens of a pass, where nothing tells how many the model was trained with.
_WINDOW = 1024
#: The harness's name for what a task measures of texts as they were written, without a filter of its own.
_PLAIN = "none"
_ERROR = "_stderr"


def check_harness(task_folder: str | None) -> None:
    """Raises ConfigError where lm-evaluation-harness is not installed, or the folder of tasks is not there."""
    if find_spec("lm_eval") is None:
        raise ConfigError(
            ["on = 'lm_eval' needs lm-evaluation-harness, which is not installed: pip install 'dist_plm[lm_eval]'"]
        )
    if task_folder is not None and not Path(task_folder).is_dir():
        raise ConfigError(
            [f"task_folder = {task_folder} is no directory that is here: name one that holds tasks in YAML"]
        )


def measure_harness(config: EvaluateConfig, session: Session) -> dict[str, Any]:
    """Measures the tasks; returns what the file of results holds. Collective over all ranks.

    Raises:
        UserError: on every rank alike.
    """
    window = _window(config, session)
    with _quiet(session):
        found = _evaluated(config, session, window)
    shots = {name: number for name, number in found["n-shot"].items() if name in found["results"]}
    return {
        "model": session.source.where,
        "on": config.on,
        "lm_eval": found["lm_eval_version"],
        "data": ", ".join(config.tasks),
        "window": window,
        "num_fewshot": shots,
        "versions": dict(found["versions"]),
        "counts": {name: counted["effective"] for name, counted in found["n-samples"].items()},
        "results": dict(_flat(found["results"])),
        "samples": [],
    }


def check_asked(config: EvaluateConfig, found: FoundModel) -> None:
    """Sees to it, in one process that builds no model, that the model can be asked and that all tasks are known. Their data
    are not looked for.

    Raises:
        UserError: the ranks would refuse it.
    """
    from lm_eval.tasks import TaskManager

    _window(config, found)
    check_heads(found)
    _named_tasks(config, TaskManager)


def _window(config: EvaluateConfig, found: FoundModel) -> int:
    """Counts the tokens of a pass."""
    model = found.config.model
    if model.is_encoder or model.has_decoder:
        raise ConfigError(
            [
                f"on = 'lm_eval' asks how texts go on, and model.family = {model.family!r} does not read from left to right: "
                "give on=perplexity, on=objective or on=probe"
            ]
        )
    longest = model.position_limit
    if config.window is not None and longest is not None and config.window > longest:
        raise ConfigError(
            [f"window = {config.window} is longer than the {longest} positions that the model has: lower it"]
        )
    return config.window or model.max_positions or found.source.sequence_length or _WINDOW


def _named_tasks(config: EvaluateConfig, make: Callable[..., T]) -> tuple[Sequence[str], T]:
    """Finds the names of all tasks that are asked for, and what loads them."""
    from lm_eval.utils import pattern_match

    manager: Any = make(include_path=config.task_folder, include_defaults=config.task_folder is None)
    if not all(pattern_match([name], manager.all_tasks) for name in config.tasks):
        manager = make(include_path=config.task_folder)  # reading its own 14,000 takes ten seconds
    return _known(config.tasks, manager.all_tasks), manager


def _evaluated(config: EvaluateConfig, session: Session, window: int) -> dict[str, Any]:
    # Here alone it is known to be installed.
    from lm_eval import __version__
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from dist_plm.tasks.harness.harness_model import HarnessModel

    class LoadedOnce(TaskManager):
        """Loads tasks where all ranks learn that one of them cannot."""

        loaded: Any = None

        def load(self, task_list: Any) -> Any:
            if self.loaded is None:
                self.loaded = on_each(session.groups.world, lambda: self._read(task_list))
            return self.loaded

        def _read(self, task_list: Any) -> Any:
            try:
                return super().load(task_list)
            except Exception as error:  # no network, no such file, or whatever a task's own code runs into
                raise DataError(f"tasks = {', '.join(task_list)} cannot be loaded: {described(error)}") from error

    names, manager = _named_tasks(config, LoadedOnce)
    # Each rank is to make the same requests, and refuses what cannot be loaded with the others.
    manager.load(names)
    asked = HarnessModel(config, session, build_runner(session), window)
    found, problem = None, None
    try:
        found = simple_evaluate(
            asked,
            tasks=[*names],
            num_fewshot=config.num_fewshot,
            limit=config.limit or None,
            task_manager=manager,
            log_samples=False,
        )
    except UserError:  # on every rank alike
        raise
    except Exception as error:  # whatever a task's own code runs into
        problem = described(error)
    # The harness tells the first rank of a node alone.
    told = gather(session.groups.world, (found if session.is_first else None, problem))
    if problems := [one for _, one in told if one is not None]:
        raise DataError(f"lm-evaluation-harness could not measure {', '.join(names)}: {problems[0]}")
    (found,) = (one for one, _ in told if one is not None)
    return {**found, "lm_eval_version": __version__}


def _known(asked: Sequence[str], names: Sequence[str]) -> list[str]:
    """Names of tasks, groups and tags; an asterisk stands for any letters.

    Raises:
        ConfigError: there is none of a name.
    """
    from lm_eval.utils import pattern_match

    found: list[str] = []
    for name in asked:
        matching = pattern_match([name], list(names))
        if not matching:
            where = "neither lm-evaluation-harness nor task_folder has such a task"
            raise ConfigError([f"tasks = {name}: {where}{did_you_mean(near(name, names))}"])
        found += matching
    return list(dict.fromkeys(found))


def _flat(results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Yields each measure as TASK/MEASURE, with the filter's name behind it where it has one; errors that are not known are
    left out."""
    for task, measured in results.items():
        for name, value in measured.items():
            measure, _, text_filter = name.partition(",")
            if not text_filter or not isinstance(value, int | float):
                continue
            is_known = value == value or not measure.endswith(_ERROR)
            if is_known:
                yield "/".join((task, measure, *([text_filter] if text_filter != _PLAIN else []))), float(value)


@contextlib.contextmanager
def _quiet(session: Session) -> Iterator[None]:
    """Leaves the harness's bars to the first rank's terminal, and of its words the warnings."""
    log = logging.getLogger("lm_eval")
    before = log.level
    log.setLevel(logging.WARNING if session.is_first else logging.ERROR)
    try:
        if session.is_first and sys.stderr.isatty():
            yield
        else:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                yield
    finally:
        log.setLevel(before)
