"""torchrun whose exit code is the ranks' own: `python -m dist_plm.cluster.torchrun` takes torchrun's arguments.

torchrun ends with 1 whenever a rank ended with anything but 0, so that a batch script cannot tell a rank that wants to be
requeued (75) from one that refused its configuration (2) or crashed.
"""

import signal
import sys
from collections.abc import Iterable, Sequence

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser, run


def main(arguments: Sequence[str] | None = None) -> int:
    options = get_args_parser().parse_args(arguments)
    try:
        run(options)
    except ChildFailedError as error:
        failures = error.failures
        code = exit_code(failure.exitcode for failure in failures.values())
        ranks = ", ".join(f"rank {rank} with {failure.exitcode}" for rank, failure in sorted(failures.items()))
        print(f"ended with exit code {code}: {ranks}", file=sys.stderr)
        return code
    return 0


def exit_code(codes: Iterable[int]) -> int:
    """One exit code for a node whose ranks ended with `codes`, of which at least one is not 0; -N is signal N.

    torchrun ends the other ranks with SIGTERM once one has failed, and a rank that is ending already may die of a second
    SIGUSR1: these count only if there is nothing else. A crash is told before a refusal, that before a wish to be requeued.
    """
    failed = {code for code in codes if code != 0}
    told = failed - {-signal.SIGTERM, -signal.SIGUSR1} or failed
    crashed = [128 - code for code in told if code < 0]
    return min(crashed) if crashed else min(told)


if __name__ == "__main__":
    sys.exit(main())
