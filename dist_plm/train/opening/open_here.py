"""Opens on this rank, before ranks have met, what a run begins with: its data, a look at its weights, its directory and log."""

from collections.abc import Callable
from pathlib import Path

from dist_plm.core.errors import CheckpointError, DataError, UserError, reason_of
from dist_plm.core.files import make_directory
from dist_plm.data.sampling.build_dataset import tokenizer_store
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.monitor.logs import setup_logging
from dist_plm.spec.derived import checkpoints_of
from dist_plm.spec.schema import RunConfig, Training
from dist_plm.train.data import RunData, open_run
from dist_plm.train.labelled import ENLARGED
from dist_plm.train.startup.load_weights import check_weights
from dist_plm.train.startup.precheck import check_checkpoint
from dist_plm.train.startup.start import Start


def open_here(config: Training, env: LaunchEnv) -> tuple[Training, RunData | None, str | None]:
    """Gives the configuration complete, and the data that it reads, having looked at what it begins with; or why this rank,
    perhaps alone, cannot read them.

    Raises:
        ConfigError: the configuration is at fault, which every rank finds alike.
        DataError, CheckpointError: the only rank cannot read its data, or what it begins with.
    """
    try:
        config, data = open_run(config, env.world_size)
        checkpoints = checkpoints_of(config.run, config.checkpoint)
        check_weights(config.model, tokenizer_store(config.data), config.train.resume, checkpoints)
        if env.rank == 0:  # all ranks read it together, once they have met
            check_checkpoint(
                config.train,
                config.model,
                config.data,
                config.objective,
                data.samples["train"],
                run_dir=Path(config.run.dir or ""),
                checkpoints=checkpoints,
            )
        return config, data, None
    except (DataError, CheckpointError) as error:
        if env.world_size == 1:
            raise
        return config, None, str(error)


def make_run_directory(run: RunConfig, env: LaunchEnv, data: RunData | None, *, private: bool) -> str | None:
    """Makes the run's directory, and in it the tokenizer that has more tokens than its model had; why that cannot be."""
    run_dir = Path(run.dir or "")
    try:
        if env.local_rank == 0:
            make_directory(run_dir, private=private)
        if env.rank == 0 and data is not None and data.enlarged is not None:
            make_directory(run_dir / ENLARGED, private=private)
            data.enlarged.save_directory(run_dir / ENLARGED)
    except OSError as error:
        return f"run.dir = {run.dir} cannot be made: {reason_of(error, run.dir)}"
    return None


def open_log(start: Start, console: Callable[[str], None] | None) -> tuple[Callable[[], None], str | None]:
    """Opens this rank's log file; returns what closes it again, or why it, perhaps alone, cannot have one."""
    try:
        launch = start.launch
        return setup_logging(start.run_dir, rank=launch.rank, node=launch.node_name, console=console), None
    except UserError as error:
        return lambda: None, str(error)
