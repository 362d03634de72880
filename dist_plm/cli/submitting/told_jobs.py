"""Tells people of a job that was submitted, and follows it."""

import shlex
import signal
from collections.abc import Mapping, Sequence
from functools import partial

from dist_plm.cluster.submission.asked_of_slurm import ranks_per_node
from dist_plm.cluster.submit import QueuedJob
from dist_plm.cluster.watch import Followed, watch
from dist_plm.core.errors import EXIT_FINISHED
from dist_plm.core.streams import tell
from dist_plm.spec.schema import JobConfig


def told(
    job: QueuedJob,
    number: str,
    results: Mapping[str, str],
    notes: Sequence[str] = (),
    commands: Mapping[str, str] | None = None,
) -> Followed:
    """Tells of a job that was submitted.

    Args:
        results: where one finds what it makes, by what that is.
        notes: what one should know of it.
        commands: of its own, by what they are for.
    """
    place, cluster = job.place, job.cluster
    log = str(place.log_of(number))
    lines = {
        **results,
        "script": str(place.script),
        "log": log,
        "watch": f"tail -F {shlex.quote(log)}",
        "state": f"squeue --jobs={number}",
        **(commands or {}),
        "stop": f"scancel {number}",
    }
    limit = f", at most {cluster.time}" if cluster.time else ""
    # Others may be still to be submitted, also where nobody reads on.
    tell(f"submitted job {number}: {_nodes(job.job)} x {ranks_per_node(cluster)} ranks{limit}")
    for note in notes:
        tell(f"  {note}")
    for name, text in lines.items():
        tell(f"  {name:8}{text}")
    return Followed(number, place.run)


def _nodes(job: JobConfig) -> str:
    return f"{job.min_nodes} to {job.nodes}" if job.min_nodes else str(job.nodes)


def watched(jobs: Sequence[Followed]) -> int:
    """Follows jobs to their end, or until nobody reads on. Returns the exit code: 0 where all completed."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # all are submitted: it ends quietly under `… | head`
    try:
        completed = watch(jobs, partial(print, flush=True))
    except KeyboardInterrupt:
        print("no longer watched; the job goes on")
        return EXIT_FINISHED
    return EXIT_FINISHED if completed else 1
