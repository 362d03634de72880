"""Spells `experiment=glue` out: a run for each task and seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_plm.cli.glue.glue_tasks import RECIPES, TASKS, GlueRecipe, GlueTask, RecipeName
from dist_plm.cli.overrides import parse
from dist_plm.cluster.job import hydra_text
from dist_plm.config.decode import decode
from dist_plm.config.suggest import did_you_mean, near
from dist_plm.config.types import Count
from dist_plm.core.errors import ConfigError

#: What asks for all of them, and begins the names of settings that say which.
_ASKS, _OWN = "experiment=glue", "glue."


@dataclass(frozen=True, slots=True, kw_only=True)
class GlueConfig:
    """Says which runs of GLUE are made: `data` is the directory of its archive, `recipe` a name of RECIPES, `tasks` those of
    TASKS (all where none is named), with seeds 1 to `seeds`. `show` makes none, and tells of those that are there; `measure`
    makes none either, but measures those that are finished on rows that are left."""

    data: str
    recipe: RecipeName = "bert_base"
    tasks: tuple[str, ...] = ()
    seeds: Count = 5
    show: bool = False
    measure: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of GLUE.

    Args:
        overrides: of launch/finetune.py, run.name among them.
        other: a file of more rows that it is measured on, once it has learned.
    """

    task: str
    seed: int
    name: str
    overrides: tuple[str, ...]
    other: Path | None = None

    @property
    def glue(self) -> GlueTask:
        return TASKS[self.task]


def asks_for_glue(overrides: Sequence[str]) -> bool:
    """Whether a command line asks for all of GLUE."""
    return any(text.lstrip("+") == _ASKS for text in overrides)


def prefix_of(overrides: Sequence[str]) -> str:
    """Tells what the names of all runs begin with."""
    return _named(overrides) or settings_of(overrides)[0].recipe


def _named(overrides: Sequence[str]) -> str | None:
    return next((text.partition("=")[2] for text in reversed(overrides) if text.startswith("run.name=")), None)


def settings_of(overrides: Sequence[str]) -> tuple[GlueConfig, GlueRecipe, list[str]]:
    """Tells which runs a command line asks for, by which recipe, and what it sets of all of them.

    Raises:
        ConfigError: it asks for none that there is, or files are missing.
    """
    own: dict[str, Any] = {}
    for text in overrides:
        if text.lstrip("+").startswith(_OWN):
            override = parse(text)
            own[override.key_or_group.removeprefix(_OWN)] = override.value()
    try:
        config = decode(GlueConfig, own)
    except ConfigError as error:
        raise ConfigError([f"{_OWN}{problem}" for problem in error.problems]) from error
    problems = [
        f"{_OWN}tasks names {task!r}, which is no task of GLUE{did_you_mean(near(task, TASKS))}; these are {', '.join(TASKS)}"
        for task in config.tasks
        if task not in TASKS
    ]
    if problems or (problems := _missing(config)):
        raise ConfigError(problems)
    common = [t for t in overrides if t.lstrip("+") != _ASKS and not t.lstrip("+").startswith(_OWN)]
    return config, RECIPES[config.recipe], common


def _missing(config: GlueConfig) -> list[str]:
    files = [
        Path(config.data, task.folder, name)
        for task in map(TASKS.__getitem__, _chosen(config))
        for name in _files(task)
    ]
    absent = [str(file) for file in files if not file.is_file()]
    if not absent:
        return []
    told = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    return [
        f"glue.data = {config.data} lacks {told}: give the directory into which GLUE's archive was unpacked, or name the tasks "
        "that are there in glue.tasks"
    ]


def _files(task: GlueTask) -> list[str]:
    return ["train.tsv", task.validation, *([task.mismatched] if task.mismatched else [])]


def _chosen(config: GlueConfig) -> list[str]:
    return [task for task in TASKS if task in config.tasks or not config.tasks]


def cells_of(config: GlueConfig, recipe: GlueRecipe, common: Sequence[str]) -> list[Cell]:
    """Lists the runs, those of a task after one another. What the command line sets counts over what a recipe does."""
    prefix = _named(common) or config.recipe
    cells: list[Cell] = []
    for name in _chosen(config):
        task = TASKS[name]
        folder = Path(config.data, task.folder)
        files = {"data.train": folder / "train.tsv", "data.validation": folder / task.validation}
        overrides = (
            f"experiment={recipe.experiment}",
            *task.settings,
            *(f"{key}={hydra_text(str(file))}" for key, file in files.items()),
            *recipe.everywhere,
            *recipe.settings.get(name, ()),
            *(text for text in common if not text.startswith("run.name=")),
        )
        other = folder / task.mismatched if task.mismatched else None
        for seed in range(1, config.seeds + 1):
            run = f"{prefix}-{name}-{seed}"
            cells.append(Cell(name, seed, run, (*overrides, f"train.seed={seed}", f"run.name={run}"), other))
    return cells
