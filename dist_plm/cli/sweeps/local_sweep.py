"""Trains a run for each combination of values, one after the other: `-m optim.lr=1e-4,3e-4`.

Each run has a process of its own, as the libraries below keep state of a run for the life of a process. Under torchrun
every rank goes through the same list.

A run that ends by its own fault, as one that diverges, does not keep the others from being trained: they follow, and it is
named at the end. Whatever else ends a run ends the sweep, and the same command goes on.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from dist_plm.cli import app
from dist_plm.cli.sweeps.sweep import expand, named, refuse_frozen_sweep, refuse_shared_directories
from dist_plm.cli.sweeps.sweep_table import SweptRun, table_of
from dist_plm.core.errors import EXIT_FINISHED, EXIT_REFUSED, ConfigError, count_of
from dist_plm.distributed.launch_env import LaunchEnv, from_environment
from dist_plm.spec.derived import directory_of
from dist_plm.spec.schema import RunConfig
from dist_plm.spec.schema_run import CheckpointConfig

_FLAGS = ("-m", "--multirun")
#: Set by torchrun: the number of times that the ranks were started again.
_ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
#: In which all ranks of a run must have ended by its fault. Where one alone is refused, the others wait for it, for long.
_TOGETHER_SECONDS = 60.0


def main(config_class: type[Any], config_name: str, run: app.CommandBody[Any], doc: str | None) -> NoReturn:
    """Runs a command that trains, once or with --multirun for each combination of values, and exits."""
    arguments = sys.argv[1:]
    if set(_FLAGS) & set(arguments) and not {"-h", "--help"} & set(arguments):
        starts = [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]]
        sys.exit(app.guarded(lambda: _sweep(arguments, starts, config_class, config_name)))
    app.main(config_class, config_name, run, doc)


def _sweep(arguments: Sequence[str], starts: Sequence[str], config_class: type[Any], config_name: str) -> int:
    options = app.parse(arguments)
    refuse_frozen_sweep(options)
    flags = [word for word in arguments if word not in (*options.overrides, *_FLAGS)]
    runs = _runs(options, config_class, config_name)
    launch = from_environment(os.environ)
    refuse_where_ranks_cannot_meet(launch, os.environ)
    failed: list[str] = []
    for number, (name, overrides, _) in enumerate(runs):
        if launch.rank == 0 and not app.PRINTING & set(flags):
            print(f"run {number + 1} of {len(runs)}: {name}", flush=True)
        code = run_to_end([*starts, *flags, *overrides], environment_of(launch, os.environ, number))
        if failed_alone(code, launch, os.environ, number):
            failed.append(name)
        elif code != EXIT_FINISHED:
            left = len(runs) - number - 1
            if launch.rank == 0 and left:
                print(f"{name} ended with {code}: {left} more not started; the same command goes on", file=sys.stderr)
            tell_failed(failed, len(runs), launch)
            return code
    done = [swept for name, _, swept in runs if name not in failed]
    if launch.rank == 0 and not app.PRINTING & set(flags) and (table := table_of(done)):
        print(f"\n{table}", flush=True)
    tell_failed(failed, len(runs), launch)
    return code_after(failed, launch, os.environ)


def failed_alone(code: int, launch: LaunchEnv, env: Mapping[str, str], number: int) -> bool:
    """Whether run `number` of several ended by its own fault, as one that diverged: its settings had been checked before. Then
    the others are made nevertheless. Of several ranks all must say so, as the next run needs them all."""
    if code != EXIT_REFUSED or launch.world_size == 1:
        return code == EXIT_REFUSED
    store, key = _store(launch), f"sweep/{env[_ATTEMPT]}/{number}/failed"
    if store.add(f"{key}/ranks", 1) == launch.world_size:
        store.set(key, "all")
    try:
        store.wait([key], timedelta(seconds=_TOGETHER_SECONDS))
    except RuntimeError:  # torch.distributed.DistStoreError among them
        return False
    return True


def tell_failed(names: Sequence[str], num_runs: int, launch: LaunchEnv) -> None:
    """Names the runs that ended by their own fault, and says what becomes of them; rank 0 does."""
    if names and launch.rank == 0:
        print(
            f"{len(names)} of {count_of(num_runs, 'run')} ended with {EXIT_REFUSED}, for what is told above: "
            f"{', '.join(names)}. The same "
            "command starts them once more, each from its latest checkpoint, and keeps what is finished",
            file=sys.stderr,
        )


def refuse_where_ranks_cannot_meet(launch: LaunchEnv, env: Mapping[str, str]) -> None:
    """Refuses ranks that torchrun did not start, which could not meet again for each of several runs.

    Raises:
        ConfigError: they are such.
    """
    if launch.world_size > 1 and _ATTEMPT not in env:
        raise ConfigError(
            [
                "--multirun needs one process, or torchrun: under srun use launch/submit.py --multirun, a job for each run"
            ]
        )


def _runs(options: Any, config_class: type[Any], config_name: str) -> list[tuple[str, list[str], SweptRun]]:
    """Names every run, tells its overrides and what is its own, and checks all of them before one is started.

    Raises:
        ConfigError: one is refused, or two would write into one directory.
    """
    runs: list[tuple[str, list[str], SweptRun]] = []
    places: list[tuple[RunConfig, CheckpointConfig]] = []
    for choice in expand(options.overrides):
        config, _ = app.load(config_class, config_name, choice.overrides, options.config_dir)
        overrides = named(choice, config.run.name)
        config, _ = app.load(config_class, config_name, overrides, options.config_dir)
        app.checked(config, options)
        places.append((config.run, config.checkpoint))
        runs.append((config.run.name, overrides, SweptRun(choice.own, Path(directory_of(config.run)))))
    refuse_shared_directories(places)
    return runs


def environment_of(launch: LaunchEnv, env: Mapping[str, str], number: int) -> dict[str, str]:
    """Lets the ranks of each run meet at a port of their own: in torchrun's store they would find keys of the run before."""
    if launch.world_size == 1:
        return dict(env)
    store = _store(launch)
    key = f"sweep/{env[_ATTEMPT]}/{number}"
    if launch.rank == 0:
        with socket.socket() as free:
            free.bind(("", 0))
            store.set(key, str(free.getsockname()[1]))
    port = store.get(key).decode()
    return {**env, "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "False"}


def code_after(failed: Sequence[str], launch: LaunchEnv, env: Mapping[str, str]) -> int:
    """Gives the exit code of a sweep that got to its end, once rank 0 has told of it: torchrun ends all ranks with the first
    that fails."""
    if failed and launch.world_size > 1:
        store, key = _store(launch), f"sweep/{env[_ATTEMPT]}/told"
        if launch.rank == 0:
            store.set(key, "all")
        with suppress(RuntimeError):  # it is gone
            store.wait([key], timedelta(seconds=_TOGETHER_SECONDS))
    return EXIT_REFUSED if failed else EXIT_FINISHED


def _store(launch: LaunchEnv) -> Any:
    """Gives torchrun's store."""
    # It brings PyTorch.
    from torch._C._distributed_c10d import TCPStore

    return TCPStore(launch.master_addr, launch.master_port, is_master=False, wait_for_workers=False)


def run_to_end(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Runs one process to its end and passes on signals; it decides what they mean. Returns its exit code."""
    process: subprocess.Popen[bytes] | None = None
    waiting: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        if process is None:
            waiting.append(number)
        else:
            process.send_signal(number)

    # A terminal sends SIGINT to the process itself.
    handlers = {signal.SIGTERM: pass_on, signal.SIGUSR1: pass_on, signal.SIGINT: lambda number, frame: None}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        process = subprocess.Popen(command, env=env)
        for number in waiting:
            process.send_signal(number)
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
