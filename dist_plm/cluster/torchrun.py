"""torchrun whose exit code is the ranks' own: `python -m dist_plm.cluster.torchrun` takes torchrun's arguments.

torchrun ends with 1 whenever a rank ended with anything but 0, so that a batch script cannot tell a rank that wants to be
requeued (75) from one that refused its configuration (2) or crashed. With --max-restarts it starts all of them again;
here only a crash is a reason to. SIGTERM and SIGUSR1 are passed on to the ranks, which have time to checkpoint.
"""

import os
import signal
import socket
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any

from dist_plm.core.early_signals import hear_early

if __name__ == "__main__":
    hear_early()  # what follows takes its time

from torch.distributed import DistError
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint
from torch.distributed.launcher import api
from torch.distributed.run import get_args_parser, run

from dist_plm.core.errors import EXIT_HUNG, EXIT_REFUSED, EXIT_REQUEUE, UserError, reason_of
from dist_plm.core.out_of_memory import memory_groups, why_killed
from dist_plm.distributed.launch_env import why_unknown

#: What a rank ends with that got a second SIGUSR1 before its checkpoint was complete.
EXIT_SIGNALLED_TWICE = 128 + signal.SIGUSR1
#: For a checkpoint, from a signal to the ranks until they are killed. Slurm's own limits are mostly shorter.
SAVE_SECONDS = 600
#: For the ranks of a node to end, once the torchrun of the first node, which all ask, is gone.
ENDING_SECONDS = 10
#: What takes less of a node's memory.
_LESS = (
    "where memory was short, lower train.micro_batch or data.loader_workers, put fewer ranks on a node, or ask for more "
    "(cluster.memory)"
)
#: What torchrun's launcher calls the class of its agent.
_NAME = LocalElasticAgent.__name__


class Agent(LocalElasticAgent):
    """Ends with its ranks where they want to end, and passes signals on to them."""

    def _invoke_run(self, role: str = "default") -> RunResult:
        try:
            return self._run_ranks(role)
        except SignalException:
            self._shutdown_timeout = SAVE_SECONDS
            raise

    def _run_ranks(self, role: str) -> RunResult:
        try:
            return super()._invoke_run(role)  # pyright: ignore[reportCallIssue]
        except (RendezvousError, DistError):
            if (result := self._ended_as_all()) is None:
                raise
            return result

    def _ended_as_all(self) -> RunResult | None:
        """Waits for ranks that are about to end, as those of the first node have, whose torchrun ends with them. None where
        they go on, or crash."""
        deadline = time.monotonic() + ENDING_SECONDS
        while self._worker_group.state == WorkerState.HEALTHY and time.monotonic() < deadline:
            result = self._monitor_workers(self._worker_group)
            if result.state != WorkerState.HEALTHY:
                crashed = result.is_failed() and is_crash(failure.exitcode for failure in result.failures.values())
                self._worker_group.state = result.state
                return None if crashed else result
            time.sleep(self._worker_group.spec.monitor_interval)
        return None

    def run(self, role: str = "default") -> RunResult:
        """A signal ends the ranks, and they say how: by default it would count as a failure of the launcher."""
        try:
            return super().run(role)  # pyright: ignore[reportCallIssue]
        except SignalException as error:
            failures = {failure.local_rank: failure for failure in self._failures(error.sigval)}
            if not failures:
                return RunResult(WorkerState.SUCCEEDED)
            ranks = {worker.local_rank: worker.global_rank for worker in self._worker_group.workers}
            return RunResult(WorkerState.FAILED, failures={ranks.get(r, r): f for r, f in failures.items()})

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)  # pyright: ignore[reportCallIssue]
        codes = [failure.exitcode for failure in result.failures.values()]
        if result.state == WorkerState.FAILED and not is_crash(codes):
            self._remaining_restarts = 0
        return result

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        # Ranks inherit that it is ignored, and so outlive one that comes before they have a handler of their own.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        pids: dict[int, Any] = super()._start_workers(worker_group)  # pyright: ignore[reportCallIssue]
        signal.signal(signal.SIGUSR1, self._pass_on)
        return pids

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        for pid in self._pcontext.pids().values() if self._pcontext else ():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue  # it has ended already

    def _failures(self, number: signal.Signals) -> Iterable[ProcessFailure]:
        processes = getattr(self._pcontext, "subprocess_handlers", {})
        for local_rank, handler in processes.items():
            code = handler.proc.poll()
            if code != 0:
                exitcode = -number if code is None else code
                yield ProcessFailure(local_rank, handler.proc.pid, exitcode, error_file="<N/A>")


def main(arguments: Sequence[str] | None = None) -> int:
    options = get_args_parser().parse_args(arguments)
    try:
        check_meeting_place(options)
    except UserError as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    # Ranks that are started again would otherwise meet in the store of the first time, and call at addresses of the dead.
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    assert getattr(api, _NAME) is LocalElasticAgent, "torchrun makes its agent in another way now"
    setattr(api, _NAME, Agent)
    groups = memory_groups()
    try:
        run(options)
    except ChildFailedError as error:
        failures = error.failures
        code = exit_code(failure.exitcode for failure in failures.values())
        ranks = ", ".join(f"rank {rank} with {failure.exitcode}" for rank, failure in sorted(failures.items()))
        print(f"ended with exit code {code}: {ranks}", file=sys.stderr)
        for rank, failure in sorted(failures.items()):
            if failure.exitcode == -signal.SIGKILL:
                how = why_killed(failure.exitcode, groups)
                print(f"rank {rank}, process {failure.pid} on {socket.gethostname()}, {how}: {_LESS}", file=sys.stderr)
        return code
    except (RendezvousError, DistError) as error:
        print(not_met(options, error), file=sys.stderr)
        return EXIT_HUNG
    finally:
        # Python gives up its handlers as it ends: a copy of the signal that comes late, by way of srun, would then kill.
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    return 0


def check_meeting_place(options: Namespace) -> None:
    """Refuses a host without an address before torchrun looks for it, which it does for minutes.

    Raises:
        UserError: the host of --rdzv-endpoint or --master-addr is unknown here, or is none.
    """
    place = meeting_place(options)
    if options.standalone or options.rdzv_backend not in ("static", "c10d") or not place:
        return
    try:
        host, _ = parse_rendezvous_endpoint(place, 0)
    except ValueError as error:
        raise UserError(f"--rdzv-endpoint={place} is no place to meet at: {reason_of(error)}") from None
    if reason := why_unknown(host):
        raise UserError(
            f"{host}, where the nodes are to meet, has no address on {socket.gethostname()} ({reason}): name the first node "
            "(--rdzv-endpoint or --master-addr) as the others reach it"
        )


def meeting_place(options: Namespace) -> str:
    """Gives HOST:PORT where the agents of all nodes meet; empty where they are told none."""
    if options.rdzv_endpoint or options.rdzv_backend != "static":
        return str(options.rdzv_endpoint or "")
    return f"{options.master_addr}:{options.master_port or 29500}"


def not_met(options: Namespace, error: BaseException) -> str:
    """Says that the agents of the nodes did not come together, or lost each other, and why."""
    place, cause = meeting_place(options), reason_of(error.__cause__ or error)
    told = (
        f"the torchrun of {socket.gethostname()} cannot meet, or has lost, those of the other nodes at {place}: {cause}"
    )
    return f"{told}; --rdzv-endpoint or --master-port with another port" if "EADDRINUSE" in cause else told


def is_crash(codes: Iterable[int]) -> bool:
    """Whether ranks that ended so, not all with 0, might get further if started again in this job."""
    return exit_code(codes) not in (EXIT_REFUSED, EXIT_REQUEUE, EXIT_SIGNALLED_TWICE)


def exit_code(codes: Iterable[int]) -> int:
    """One exit code for a node whose ranks ended with `codes`, of which at least one is not 0; -N is signal N.

    torchrun ends the other ranks with SIGTERM once one has failed, and a rank that is ending already may die of a second
    SIGUSR1: these count only if there is nothing else. A crash is told before a refusal, that before a wish to be requeued.
    """
    failed = {code for code in codes if code != 0}
    told = failed - {-signal.SIGTERM, -signal.SIGUSR1} or failed
    killed = [128 - code for code in told if code < 0]
    return min(killed or told - {EXIT_REFUSED, EXIT_REQUEUE} or told)


if __name__ == "__main__":
    sys.exit(main())
