"""Rehearses ranks of a run before it is queued: a whole step and a save of each, without a GPU and without their memory.

    python launch/rehearse.py model=gpt3_175b parallel=tensor8_pipeline16 --world-size 1024 --ranks worst
    python launch/rehearse.py experiment=bert_large_lamb data.path=corpus/web --world-size 8 --ranks all
    python launch/rehearse.py model=gpt2_small parallel.pipeline=2 --world-size 4 --ranks 0,2 json=rehearsal.json
    python launch/rehearse.py task=classify model.init_from=DIR data.train=train.csv --world-size 8

It takes every setting of launch/pretrain.py or, with a task, of launch/finetune.py, whose rows have to be here. Each rank is
built as the run would build it, model, engine and optimizer, with tensors that have no values and other ranks that are not
there. What it says to them is recorded, and compared inside every group and between pipeline stages: a call that is missing,
in another order or of another shape is named with its rank, step and place in the code, and the exit code is 2. A corpus is
read where it is here, else random text stands in.

Most used settings:
  --world-size 1024              ranks of the run
  --ranks worst                  of the stage that needs most memory and around it (default); or all, or numbers: 0,17,1023
  json=FILE                      writes what was seen, every collective among it
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dist_plm.cli import app
from dist_plm.cli.search_path import SearchPath
from dist_plm.cluster.check import check_run, run_of
from dist_plm.config.origins import Origin
from dist_plm.config.read_files import check_not_read
from dist_plm.config.runfile import mapping_of
from dist_plm.core.errors import EXIT_FINISHED, EXIT_REFUSED, ConfigError, UserError, reason_of
from dist_plm.core.files import check_output, output_writer
from dist_plm.core.streams import tell
from dist_plm.distributed.grid import grid_of
from dist_plm.plan.rehearsal.chosen_ranks import chosen_ranks
from dist_plm.plan.rehearsal.rehearsal_text import rehearsal_json, rehearsal_text
from dist_plm.plan.verdict import require_vocabulary
from dist_plm.spec.schema import RehearseConfig, TrainingConfig
from dist_plm.spec.schema_finetune import FinetuneConfig, FinetuneRehearsalConfig, kind_of

if TYPE_CHECKING:
    from dist_plm.plan.rehearsal.all_ranks import Rehearsal


def execute(arguments: Sequence[str]) -> int:
    """Runs the command and returns the exit code."""
    return app.front(arguments, *_asked_for(arguments), partial(run, arguments), __doc__ or "")


def _asked_for(arguments: Sequence[str]) -> tuple[type[RehearseConfig] | type[FinetuneRehearsalConfig], str]:
    """Finds what the settings of the run decode into, and its root file."""
    try:
        options = app.parse(arguments, planned=True, chooses_ranks=True)
        if options.frozen is not None:
            tuned = kind_of(mapping_of(options.frozen)) is FinetuneConfig
        else:
            tuned = SearchPath.with_sites(options.config_dir).asked_for(options.overrides) == "finetune"
    except (UserError, OSError, ValueError):  # the front tells of it
        tuned = False
    return (FinetuneRehearsalConfig, "rehearse_finetune") if tuned else (RehearseConfig, "rehearse")


def run(arguments: Sequence[str], config: RehearseConfig | FinetuneRehearsalConfig, origins: dict[str, Origin]) -> int:
    given, world_size = run_of(config), app.planned_world_size(arguments)
    if isinstance(given, FinetuneConfig):
        complete = from_the_start(given, check_run(given, world_size, with_data=True, with_weights=False))
    else:
        complete = check_run(given, world_size, with_data=given.data.are_here, with_weights=False)
    require_vocabulary(complete.model)
    _refuse_what_cannot_be(config.json, complete)
    rehearsal, grid = rehearsed(complete, world_size, _ranks(arguments)), grid_of(complete.parallel)
    tell(rehearsal_text(rehearsal, grid))
    if config.json is not None:
        _write(Path(config.json), json.dumps(rehearsal_json(rehearsal, grid)))
    for problem in rehearsal.problems:
        print(f"  - {problem}", file=sys.stderr)
    return EXIT_REFUSED if rehearsal.problems else EXIT_FINISHED


def from_the_start(given: FinetuneConfig, complete: FinetuneConfig) -> FinetuneConfig:
    """The complete run with the tokenizer that it begins with, where it adds tokens: the one that it keeps is not there yet."""
    if not given.data.adds_tokens:
        return complete
    from dist_plm.train.labelled import tokenizer_begun_with

    return replace(complete, data=replace(complete.data, tokenizer=tokenizer_begun_with(given)))


def rehearsed(complete: TrainingConfig, world_size: int, ranks: str) -> "Rehearsal":
    """Rehearses the ranks that --ranks names of a finalised run."""
    chosen = chosen_ranks(ranks, complete, grid_of(complete.parallel))
    # It imports torch, which wrong settings are refused without.
    from dist_plm.plan.rehearsal.all_ranks import rehearse

    return rehearse(complete, world_size, chosen)


def _ranks(arguments: Sequence[str]) -> str:
    """Tells which ranks are meant, as the command line says it."""
    return app.parse(arguments, planned=True, chooses_ranks=True).ranks or "worst"


def _refuse_what_cannot_be(file: str | None, complete: TrainingConfig) -> None:
    problems = []
    if file is not None and not Path(file).absolute().parent.is_dir():
        problems.append(f"json = {file!r} is in no folder that is here: make {Path(file).parent}, or choose another")
    elif file is not None:
        try:
            check_output(Path(file))
        except (OSError, ValueError) as error:
            problems.append(f"json = {file!r} cannot be written: {reason_of(error, file)}")
    if problems:
        raise ConfigError(problems)
    if file is not None:
        check_not_read("json", file, complete)


def _write(path: Path, text: str) -> None:
    try:
        with output_writer(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise UserError(f"json = {str(path)!r} cannot be written: {reason_of(error, path)}") from None


def main() -> NoReturn:
    """Runs the command that `sys.argv` holds, and exits."""
    app.main(*_asked_for(sys.argv[1:]), partial(run, sys.argv[1:]), __doc__)


if __name__ == "__main__":
    main()
