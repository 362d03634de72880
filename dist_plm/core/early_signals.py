"""Hears SIGUSR1 where nothing else does yet: batch scripts have it ignored, as Python would die of it before it has a handler.

Imported before all that takes time: it imports nothing that does.
"""

import os
import signal
from types import FrameType

from dist_plm.core.errors import EXIT_REQUEUE


def hear_early() -> None:
    """Ends this process, to be started again, on SIGUSR1 from now on, where it was started with that ignored. Nothing has begun
    yet that could be lost."""
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN:
        signal.signal(signal.SIGUSR1, _end)


def hear_early_no_more() -> None:
    """Ignores it again, unless it has got another handler since."""
    if signal.getsignal(signal.SIGUSR1) is _end:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_REQUEUE)
