"""One start of a run: what it is called, whom it answers to, and when it must be over."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from dist_plm.checkpoint.ownership import Owner
from dist_plm.config.runfile import changes
from dist_plm.core.errors import PreflightError
from dist_plm.distributed.collectives import gather, on_first
from dist_plm.distributed.device import Device
from dist_plm.distributed.groups import Groups
from dist_plm.distributed.launch_env import LaunchEnv
from dist_plm.monitor.watchdog import HangLimits, Watchdog
from dist_plm.spec.schema_run import TrainConfig
from dist_plm.train.deadline import Deadline
from dist_plm.train.startup.lease import RunLease, claim, owner_of
from dist_plm.train.stopping import Control, StopSignals

#: How much longer than the watchdog NCCL is patient, and the share of its patience after which the watchdog speaks whatever
#: steps take.
_TIMEOUT_FACTOR = 2
_WATCHED_SHARE = 0.9
#: So many settings are told that ranks do not share.
_TOLD = 5


@dataclass(frozen=True, slots=True)
class Start:
    """Holds what this rank starts with.

    Args:
        host: all ranks on gloo: for the start itself, and then for its `control` alone.
    """

    launch: LaunchEnv
    signals: StopSignals
    deadline: Deadline
    lease: RunLease
    watchdog: Watchdog
    host: dist.ProcessGroup

    @property
    def run_dir(self) -> Path:
        return self.lease.path.parent

    @property
    def owner(self) -> Owner:
        """The run as the owner of its checkpoints."""
        return owner_of(self.run_dir)

    def control(self) -> Control:
        """Builds what asks all ranks whether to go on."""
        return Control(self.signals, self.host, self.lease, self.deadline)


def begin(
    run_dir: Path,
    limits: HangLimits,
    launch: LaunchEnv,
    env: Mapping[str, str],
    signals: StopSignals,
    groups: Groups,
    host: dist.ProcessGroup,
) -> Start:
    """Takes over the run's directory. Collective."""
    lease = on_first(groups.world, lambda: claim(run_dir, launch, env))
    watchdog = Watchdog(
        limits, run_dir, rank=launch.rank, world_size=launch.world_size, node=launch.node_name, start=lease.start
    )
    return Start(launch, signals, Deadline.from_environment(env), lease, watchdog, host)


def hang_limits(train: TrainConfig, timeout: timedelta, device: Device) -> HangLimits:
    """Says when the watchdog speaks: before NCCL ends the process at `timeout`, whatever steps take."""
    most = _WATCHED_SHARE * timeout.total_seconds()
    return HangLimits(
        factor=train.hang_factor,
        least_seconds=60 * train.hang_minutes,
        patient_seconds=60 * train.hang_patience_minutes,
        most_seconds=most if device.backend == "nccl" else math.inf,
    )


def collective_timeout(train: TrainConfig, minutes: float, device: Device) -> timedelta:
    """Bounds a collective by so many minutes. NCCL ends the process when it is over, and nobody would be told why:
    where a watchdog looks, it has spoken before."""
    if device.backend == "nccl" and train.hang_factor > 0:
        minutes = max(minutes, _TIMEOUT_FACTOR * max(train.hang_minutes, train.hang_patience_minutes))
    return timedelta(minutes=minutes)


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


def agree_on(settings: Mapping[str, Any], launch: LaunchEnv, group: dist.ProcessGroup | None) -> None:
    """Refuses to start where ranks were given different configurations, which would lead them to other groups, directories
    and samples. Collective.

    Args:
        settings: of this rank, as `encode` gives them.
    Raises:
        PreflightError: on every rank.
    """
    if problem := other_settings(settings, launch, group):
        raise PreflightError([problem])


def other_settings(settings: Mapping[str, Any], launch: LaunchEnv, group: dist.ProcessGroup | None) -> str | None:
    """Says which ranks were started with other settings than rank 0, and in what those of the first such rank differ; None
    where all are equal. Collective.

    Args:
        settings: of this rank, as `encode` gives them.
    """
    text = json.dumps(settings, sort_keys=True)
    found = gather(group, (hashlib.sha256(text.encode()).hexdigest(), launch.node_name))
    others = [rank for rank, (digest, _) in enumerate(found) if digest != found[0][0]]
    if not others:
        return None
    first = others[0]
    of_ranks: list[Mapping[str, Any] | None] = gather(group, settings if launch.rank in (0, first) else None)
    changed = changes(of_ranks[0] or {}, of_ranks[first] or {})
    more = f" and {len(changed) - _TOLD} more" if len(changed) > _TOLD else ""
    which = f"rank {first}" if len(others) == 1 else f"{len(others)} ranks, the first of them rank {first}"
    return (
        f"the configuration is not the same everywhere: {which} on {found[first][1]} has another than rank 0 "
        f"({', '.join(changed[:_TOLD])}{more}): start all ranks with one command"
    )
