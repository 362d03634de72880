"""Runs in a loader's worker process: reads windows, collates, sends. Started by `loader`, never by hand.

It imports numpy and whatever `collate` needs, no torch, so that it starts in a fifth of a second and stays small.
"""

import pickle
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection

from dist_plm.data.loader.microbatch_builder import microbatches

#: The trainer ended, or wants no more.
_GONE = (BrokenPipeError, ConnectionResetError, EOFError)


def main(descriptor: int) -> None:
    """Serves the microbatches described in the first message on the connection, in order, until all are sent.

    Messages back are ("batch", arrays) or ("error", exception or None, traceback text).
    """
    # A signal to the whole job is the trainer's business, which may still want batches for a last step. The worker
    # ends when its connection does.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    connection = Connection(descriptor)
    with suppress(*_GONE):
        _serve(connection)


def _serve(connection: Connection) -> None:
    try:
        for arrays in microbatches(*pickle.loads(connection.recv_bytes())):
            connection.send(("batch", arrays))
    except _GONE:
        raise
    except Exception as error:
        text = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = None  # some exceptions do not survive pickling; the text always does
        connection.send(("error", error, text))


if __name__ == "__main__":
    main(int(sys.argv[1]))
