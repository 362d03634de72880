"""Tells a refusal once, whichever of the ranks it comes from."""

import errno
import os
import socket
import sys
import time
from contextlib import suppress

from dist_plm.config.credentials import mask
from dist_plm.core.errors import ConfigError, LostRankError, NodeError, PreflightError, UserError
from dist_plm.core.installed import as_typed
from dist_plm.core.streams import tell, visible
from dist_plm.distributed.launch_env import from_environment

#: How long a rank waits for another one to say what it would: whoever speaks first ends, and its launcher ends the others.
PATIENCE_SECONDS = 5.0

#: Holds the name by which a rank is the one of its node to tell of a lost one, for as long as it lives.
_kept = list[socket.socket]()


def report(refusal: UserError) -> None:
    """Says it once. Mostly all ranks refuse alike and rank 0 speaks, but any may be alone: with another command line, an
    environment of its own, or data that no other reads. So the others speak too where they are not ended meanwhile. That a rank
    is lost is told by the first of each node to notice."""
    message = visible(as_typed(mask(str(refusal))))
    try:
        launch = from_environment(os.environ)
    except ConfigError:
        tell(message, sys.stderr)
        return
    if isinstance(refusal, LostRankError):
        if _is_first(kept := socket.socket(socket.AF_UNIX), "lost"):
            tell(f"{launch.node_name}, rank {launch.rank}: {message}", sys.stderr)
            _kept.append(kept)
        return
    if launch.rank == 0:
        tell(message, sys.stderr)
        return
    of_node = isinstance(refusal, NodeError) or not isinstance(refusal, ConfigError)
    if isinstance(refusal, PreflightError) and not of_node:
        return  # rank 0 has the same
    if (launch.local_rank == 0 and of_node) or _first_after_patience():
        tell(f"{launch.node_name}, rank {launch.rank}: {message}", sys.stderr)


def _first_after_patience() -> bool:
    """Waits to be ended by the launcher, which another rank's end makes it do. Afterwards true on one rank of those that wait
    at a time on this node."""
    with socket.socket(socket.AF_UNIX) as place:
        first = _is_first(place, "refusal")
        with suppress(KeyboardInterrupt):  # who presses the keys waits no longer
            time.sleep(PATIENCE_SECONDS if first else PATIENCE_SECONDS + 1)
        return first


def _is_first(place: socket.socket, what: str) -> bool:
    """Whether no other rank of this node's launcher holds the name, which ends with the socket or its process."""
    try:
        place.bind(f"\0dist_plm.{what}.{os.getppid()}")
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True
