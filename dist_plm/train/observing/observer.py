"""Looks at intervals at what losses do not show: where each rank's time goes, and whether ranks agree to the bit."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from torch import nn

from dist_plm.core.errors import ReplicasDifferError, UserError, described
from dist_plm.core.files import open_to_append
from dist_plm.data.loader.batch import Batch
from dist_plm.distributed.groups import Groups
from dist_plm.engines.base import Engine
from dist_plm.engines.measuring.step_clock import PARTS
from dist_plm.models.sharding import ShardSpec
from dist_plm.monitor.report_page.run_tables import STEP_PARTS
from dist_plm.spec.derived import is_due
from dist_plm.spec.schema_run import ClusterConfig, ObserveConfig, TrainConfig
from dist_plm.train.observing.layer_sizes import LayerSizes
from dist_plm.train.observing.replicas import Odd, Replicas, mismatches, odd_pass
from dist_plm.train.observing.step_profile import StepProfile
from dist_plm.train.observing.stragglers import Stragglers, averages, own_seconds, peers_of
from dist_plm.train.stopping import Control

log = logging.getLogger(__name__)

T = TypeVar("T")

#: In a run's directory: nodes that its job is not to run on again, one a line (see slurm/common.sh).
SLOW_NODES = Path("slurm", "slow_nodes")
_NAMES = ("data", *PARTS)


@dataclass(slots=True)
class Observer:
    """Measures and compares as train.observe says. All ranks do at the same steps.

    Args:
        exact: ranks compute the same bits from the same values.
        nodes: of each rank.
        exclude: nodes that are named are not to be used again.
        heals: the run goes back from steps that are bad, so that what it goes back to must be good (train.heal.mode is "on").
        agreed: the last step after which all replicas were alike.
    """

    settings: ObserveConfig
    engine: Engine
    control: Control
    groups: Groups
    replicas: Replicas
    stragglers: Stragglers
    profile: StepProfile
    layers: LayerSizes
    run_dir: Path
    nodes: Sequence[str]
    exact: bool
    exclude: bool
    heals: bool = False
    agreed: int = 0
    _data: list[float] = field(default_factory=list)
    _waited: float = 0.0

    def waiting(self, wait: Callable[[], T]) -> T:
        """Counts what it takes this rank to wait for its data."""
        began = time.perf_counter()
        result = wait()
        self._waited += time.perf_counter() - began
        return result

    def step(self, step: int) -> AbstractContextManager[None]:
        """Is entered while a step is made."""
        every = self.settings.parts_every
        is_timed = every > 0 and -step % every < self.settings.parts_steps
        return self._measured(step, is_timed=is_timed)

    @contextmanager
    def _measured(self, step: int, *, is_timed: bool) -> Iterator[None]:
        layers = self.layers.measuring() if is_due(step, self.settings.layers_every) else nullcontext()
        timed = self.engine.clock.running() if is_timed else nullcontext()
        with layers, self.profile.step(step), timed:
            yield
        if is_timed:
            self._data.append(self._waited)

    def look(self, step: int, microbatches: Sequence[Batch]) -> dict[str, float]:
        """Looks at what is due after a step; gives what a record tells of it. Collective where something is due.

        Raises:
            ReplicasDifferError: on every rank, where ranks do not agree and train.observe.on_mismatch is "stop", or do not
                agree on weights and the run heals itself.
        """
        self._waited, settings, found = 0.0, self.settings, dict[str, float]()
        if is_due(step, settings.parts_every):
            found |= self._look_at_parts(step)
        if is_due(step, settings.replicas_every):
            found |= self._look_at_replicas(step)
        if is_due(step, settings.passes_every) and self.exact:
            found |= self._judge(step, "passes", odd_pass(self.engine, microbatches[0], self.groups))
        if is_due(step, settings.layers_every):
            found |= self.layers.take()
        return found

    def _look_at_parts(self, step: int) -> dict[str, float]:
        steps = [{"data": waited, **parts} for waited, parts in zip(self._data, self.engine.clock.take(), strict=True)]
        self._data.clear()
        mean = averages(steps)
        rows = self.control.numbers_of_all([*(mean[name] for name in _NAMES), own_seconds(steps)])
        *columns, own = zip(*rows, strict=True)
        slow = self.stragglers.note(own)
        for rank, ratio in slow.items():
            if self.stragglers.in_a_row[rank] == self.stragglers.times:
                self._tell_slow(step, rank, ratio)
        if self.groups.rank == 0:
            self._keep(step, dict(zip(_NAMES, columns, strict=True)))
        named = {f"step_parts/{name}": sum(column) / len(column) for name, column in zip(_NAMES, columns, strict=True)}
        worst = max(slow, key=slow.__getitem__, default=None)
        return named if worst is None else {**named, "slow/rank": worst, "slow/ratio": slow[worst]}

    def _tell_slow(self, step: int, rank: int, ratio: float) -> None:
        log.warning(
            "step %d: rank %d on node %s takes %.2f times as long as its peers, for the last %d steps: look at that machine%s",
            *(step, rank, self.nodes[rank], ratio, self.stragglers.times * self.settings.parts_every),
            "; a submitted job that is queued again asks for other nodes than that (cluster.exclude_slow=true)"
            if self.exclude
            else ", or set cluster.exclude_slow=true",
        )
        self._exclude([rank])

    def begin_at(self, step: int) -> None:
        """Takes note that all ranks have taken up the same state, which is that after a step."""
        self.agreed = step

    def check_weights(self, step: int) -> None:
        """Compares what a run that heals itself may go back to, unless that was done since the step. Collective.

        Raises:
            ReplicasDifferError: on every rank, where ranks do not agree on weights.
        """
        compares = self.settings.replicas_every > 0 or self.settings.passes_every > 0
        if self.heals and compares and self.agreed != step:
            self._look_at_replicas(step)

    def _look_at_replicas(self, step: int) -> dict[str, float]:
        found = self._judge(step, "replicas", self.replicas.odd(self.engine))
        if not found:
            self.agreed = step
        return found

    def _judge(self, step: int, what: str, odds: list[Odd]) -> dict[str, float]:
        if not self.control.any_rank(bool(odds)):
            return {}
        found = mismatches(self.control.of_all(odds))
        told = "; ".join(one.told(self.nodes) for one in found)
        self._exclude(sorted({rank for one in found if one.odd != one.ranks for rank in one.odd}))
        if self.heals and what != "replicas":
            self.check_weights(step)  # where they are alike, there is nothing to go back from
        if self.settings.on_mismatch == "stop" or (self.heals and what == "replicas"):
            remedy = (
                f"Replicas agreed last after step {self.agreed}: later checkpoints may hold it; leave that machine out, and "
                f"name an earlier one with train.resume=PATH"
            )
            raise ReplicasDifferError(step, told, remedy)
        log.warning(
            "step %d: %s. Some machine makes mistakes; train.observe.on_mismatch=stop would end the run", step, told
        )
        return {f"{what}/differing": len(found)}

    def _exclude(self, ranks: Sequence[int]) -> None:
        if not self.exclude or not ranks or self.groups.rank != 0:
            return
        path = self.run_dir / SLOW_NODES
        try:
            path.parent.mkdir(exist_ok=True)
            with open_to_append(path) as file:
                file.write("".join(f"{node}\n" for node in dict.fromkeys(self.nodes[rank] for rank in ranks)).encode())
        except (OSError, UserError) as error:
            log.warning("which nodes are not to be used again cannot be kept: %s", described(error))

    def _keep(self, step: int, seconds: dict[str, Sequence[float]]) -> None:
        """Adds a line to the file of all ranks' parts; what cannot be written is lost, and told."""
        path = self.run_dir / STEP_PARTS
        rounded = {name: [round(one, 6) for one in column] for name, column in seconds.items()}
        try:
            with open_to_append(path) as file:
                file.write(json.dumps({"step": step, "nodes": list(self.nodes), "seconds": rounded}).encode() + b"\n")
        except (OSError, UserError) as error:
            log.warning("the parts of a step cannot be kept: %s", described(error))


def build_observer(
    train: TrainConfig,
    cluster: ClusterConfig,
    engine: Engine,
    control: Control,
    groups: Groups,
    model: tuple[Sequence[nn.Module], Sequence[ShardSpec]],
    run_dir: Path,
    node: str,
) -> Observer:
    """Builds what looks. Collective.

    Args:
        model: its chunks on this rank, and the shard specs of their parameters.
        node: of this rank.
    """
    settings = train.observe
    exact = train.deterministic or groups.device.kind == "cpu"
    if settings.passes_every and not exact:
        log.warning("train.observe.passes_every has no effect on GPUs without train.deterministic=true")
    return Observer(
        settings,
        engine,
        control,
        groups,
        Replicas(model[1], groups, exact=exact),
        Stragglers(peers_of(groups.grid), settings.slow_share, settings.slow_times),
        StepProfile(train.profile, run_dir, groups.rank, groups.device),
        LayerSizes(engine, model[0], groups),
        run_dir,
        control.of_all(node),
        exact=exact,
        exclude=cluster.exclude_slow,
        heals=train.heal.rolls_back,
    )
