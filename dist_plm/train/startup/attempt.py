"""One start of a run: what it is called, whom it answers to, and when it must be over."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from dist_plm.core.errors import PreflightError
from dist_plm.distributed.collectives import gather, on_first
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.monitor.watchdog import HangLimits, Watchdog
from dist_plm.spec.schema import PretrainConfig
from dist_plm.train.deadline import Deadline
from dist_plm.train.startup.lease import Fence, claim
from dist_plm.train.stopping import Control, StopSignals


@dataclass(frozen=True, slots=True)
class Start:
    """Holds what this rank starts with."""

    launch: LaunchEnv
    signals: StopSignals
    deadline: Deadline
    fence: Fence
    watchdog: Watchdog

    @property
    def run_dir(self) -> Path:
        return self.fence.path.parent

    def control(self, group: dist.ProcessGroup) -> Control:
        """Asks all ranks, over a group of its own, whether to go on."""
        return Control(self.signals, group, self.fence, self.deadline)


def begin(
    config: PretrainConfig, launch: LaunchEnv, env: Mapping[str, str], signals: StopSignals, group: dist.ProcessGroup
) -> Start:
    """Takes over the run's directory. Collective."""
    run_dir = Path(config.run.dir or "")
    fence = on_first(group, lambda: claim(run_dir, launch, env))
    limits = HangLimits(
        factor=config.train.hang_factor,
        least_seconds=60 * config.train.hang_minutes,
        patient_seconds=60 * config.train.hang_patience_minutes,
    )
    watchdog = Watchdog(
        limits, run_dir, rank=launch.rank, world_size=launch.world_size, node=launch.node_name, start=fence.start
    )
    return Start(launch, signals, Deadline.from_environment(env), fence, watchdog)


def refuse_together(problem: str | None, launch: LaunchEnv, group: dist.ProcessGroup) -> None:
    """Has all ranks refuse what one refuses, so that none waits for those that are gone. Collective.

    Raises:
        PreflightError: on every rank, where any has a `problem`.
    """
    where: dict[str, list[str]] = {}
    for told, node in gather(group, (problem, launch.node_name)):
        if told is not None:
            where.setdefault(told, []).append(node)
    if where:
        raise PreflightError([f"on {', '.join(dict.fromkeys(nodes))}: {told}" for told, nodes in where.items()])
