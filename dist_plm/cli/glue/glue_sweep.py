"""Makes the runs of `experiment=glue` one after the other, but those that are finished, and tells what they reached."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dist_plm.checkpoint.storage import name_of
from dist_plm.cli import app
from dist_plm.cli.glue.glue_cells import Cell, GlueConfig, cells_of, settings_of
from dist_plm.cli.glue.glue_table import MISMATCHED, reached, rendered, rows_of
from dist_plm.cli.glue.glue_tasks import GlueRecipe
from dist_plm.cli.sweeps.local_sweep import (
    code_after,
    environment_of,
    failed_alone,
    refuse_where_ranks_cannot_meet,
    run_to_end,
    tell_failed,
)
from dist_plm.cli.sweeps.sweep import refuse_shared_directories
from dist_plm.cluster.job import hydra_text
from dist_plm.config.decode import encode, flatten
from dist_plm.config.messages import show
from dist_plm.config.runfile import mapping_of
from dist_plm.core.errors import EXIT_FINISHED, CheckpointError, ConfigError, count_of
from dist_plm.core.files import atomic_writer
from dist_plm.core.installed import start_words
from dist_plm.distributed.launch_env import LaunchEnv, from_environment
from dist_plm.spec.derived import checkpoints_of, directory_of
from dist_plm.spec.schema_finetune import FinetuneConfig


@dataclass(frozen=True, slots=True)
class PlacedCell:
    """Holds a run of GLUE, and where it is."""

    cell: Cell
    config: FinetuneConfig

    @property
    def run_dir(self) -> Path:
        return Path(directory_of(self.config.run))

    @property
    def prefix(self) -> str:
        """Begins the names of all runs."""
        return self.cell.name.removesuffix(f"-{self.cell.task}-{self.cell.seed}")

    @property
    def is_measured(self) -> bool:
        """Whether nothing is left to be measured once it has learned."""
        return self.cell.other is None or (self.run_dir / MISMATCHED).is_file()

    def made_otherwise(self) -> str:
        """Tells what the run was made with in place of what is asked for now: it is not made again."""
        made, asked = flatten(mapping_of(self.run_dir / "run.yaml")), flatten(encode(self.config))
        named = {word.partition("=")[0].lstrip("+") for word in self.cell.overrides} - {"model"}
        other = [
            f"{key} = {show(made[key])}"
            for key, value in asked.items()
            if value not in (None, "", []) and key in made and made[key] != value
            if key in named or any(key.startswith(f"{name}.") for name in named)
        ]
        return f" with {', '.join(other)}: another run.name makes it anew" if other else ""

    def measuring(self) -> list[str]:
        """Gives the command that measures the other rows, by the checkpoint that counts."""
        told, config = reached(self.run_dir), self.config
        if told is None:
            raise CheckpointError(f"{self.run_dir} was not finished: start it again")
        checkpoint = Path(checkpoints_of(config.run, config.checkpoint)) / name_of(told.step)
        paths = {"from": checkpoint, "data.rows": self.cell.other, "out": self.run_dir / MISMATCHED}
        return [
            sys.executable,
            *start_words("evaluate"),
            "on=task",
            *(f"{key}={hydra_text(str(path))}" for key, path in paths.items()),
            *(
                f"parallel.{key}={show(getattr(config.parallel, key))}"
                for key in ("tensor", "pipeline", "stage_layers")
            ),
            f"precision={config.precision.name}",
            f"cluster.device={config.cluster.device}",
        ]


def main() -> NoReturn:
    """Makes the runs that `sys.argv` asks for, and exits."""
    arguments = sys.argv[1:]
    starts = [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]]
    sys.exit(app.guarded(lambda: _sweep(arguments, starts)))


@dataclass(frozen=True, slots=True)
class PlacedSweep:
    """Holds the runs that a command line asks for."""

    config: GlueConfig
    recipe: GlueRecipe
    cells: Sequence[PlacedCell]


def placed_cells(
    overrides: Sequence[str],
    folders: Sequence[str],
    kind: type[Any] = FinetuneConfig,
    root: str = "finetune",
) -> PlacedSweep:
    """Lists the runs that a command line asks for.

    Args:
        folders: of configuration, beside conf/.
        kind, root: what settings decode into, and their root file in conf/.
    Raises:
        ConfigError: one cannot be made.
    """
    config, recipe, common = settings_of(overrides)
    cells = cells_of(config, recipe, common)
    placed = [PlacedCell(cell, app.load(kind, root, cell.overrides, folders)[0]) for cell in cells]
    refuse_shared_directories([(one.config.run, one.config.checkpoint) for one in placed])
    return PlacedSweep(config, recipe, placed)


def _sweep(arguments: Sequence[str], starts: Sequence[str]) -> int:
    options = app.parse(arguments)
    if options.frozen is not None or options.multirun:
        raise ConfigError(["experiment=glue is many runs already: leave --multirun and --frozen out"])
    sweep = placed_cells(options.overrides, options.config_dir)
    placed = sweep.cells
    for one in placed:
        app.checked(one.config, options)
    flags = [word for word in arguments if word not in options.overrides]
    if options.check and not options.origin and not options.cfg:
        print(f"{count_of(len(placed), 'run')}: {', '.join(one.cell.name for one in placed)}")
    if app.PRINTING & set(flags):
        return run_to_end([*starts, *flags, *placed[0].cell.overrides], os.environ)
    launch = from_environment(os.environ)
    refuse_where_ranks_cannot_meet(launch, os.environ)
    asked = [one for one in placed if reached(one.run_dir) is not None] if sweep.config.measure else placed
    failed: list[str] = []
    if not sweep.config.show and (code := _make(asked, [*starts, *flags], launch, failed)) != EXIT_FINISHED:
        tell_failed(failed, len(asked), launch)
        return code
    if launch.rank == 0:
        _tell(sweep)
    tell_failed(failed, len(asked), launch)
    return code_after(failed, launch, os.environ)


def _make(placed: Sequence[PlacedCell], starts: Sequence[str], launch: LaunchEnv, failed: list[str]) -> int:
    """Makes what is not finished; the exit code of the first that did not end well.

    Args:
        failed: gets the names of those that ended by their own fault, after which the others are made.
    """
    number = 0
    for i, one in enumerate(placed):
        is_finished = reached(one.run_dir) is not None
        if launch.rank == 0:
            told = f", finished before{one.made_otherwise()}" if is_finished else ""
            print(f"run {i + 1} of {len(placed)}: {one.cell.name}{told}", flush=True)
        for done, words in (
            (is_finished, lambda one=one: [*starts, *one.cell.overrides]),
            (one.is_measured, one.measuring),
        ):
            if done:
                continue
            number += 1
            code = run_to_end(words(), environment_of(launch, os.environ, number))
            if failed_alone(code, launch, os.environ, number):
                failed.append(one.cell.name)
                break
            if code != EXIT_FINISHED:
                if launch.rank == 0:
                    print(f"{one.cell.name} ended with {code}: the same command goes on", file=sys.stderr)
                return code
    return EXIT_FINISHED


def _tell(sweep: PlacedSweep) -> None:
    """Prints the table of what is finished, and writes it beside the runs."""
    placed, recipe = sweep.cells, sweep.recipe
    found = {one.cell.name: told for one in placed if (told := reached(one.run_dir)) is not None}
    rows = rows_of([one.cell for one in placed], found, recipe)
    print(rendered(rows, recipe))
    if missing := len(placed) - len(found):
        print(f"{missing} of {count_of(len(placed), 'run')} {'is' if missing == 1 else 'are'} not finished")
    if found:
        path = placed[0].run_dir.parent / f"{placed[0].prefix}-glue.json"
        with atomic_writer(path) as file:
            file.write(
                json.dumps({"recipe": sweep.config.recipe, "source": recipe.source, "rows": rows}, indent=2).encode()
            )
        print(path)
