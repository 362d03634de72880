"""Speaks where nobody may hear it, and ends a program with the code that says how it went, also while something still works."""

import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from typing import NoReturn, TextIO

from dist_plm.core.errors import (
    EXIT_FINISHED,
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    EXIT_REQUEUE,
    LostRankError,
    UserError,
    reason_of,
    refusing_denials,
)
from dist_plm.core.panics import is_panic

log = logging.getLogger(__name__)

#: What gloo, NCCL, the store where ranks meet and our own shared memory say of a rank that is gone.
_GONE = re.compile(
    "connection (was likely )?closed|connection reset by peer|broken pipe|remote process exit", re.IGNORECASE
)

#: What gloo adds to it: a place in its code before, advice behind.
_AROUND = re.compile(r"^\[\S+:\d+\] |\. This is typically .*")

#: What a terminal obeys instead of showing it, or shows in another order, and what stands for bytes that are no text.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Spells out signs that a terminal would obey, as names of files and settings may hold them."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def open_standard_streams() -> None:
    """Puts the null device in place of standard streams that are closed: a file opened later would get their numbers, and
    what libraries print would go there."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(number, mode, closefd=False, errors="replace"))


def tell(text: str, stream: TextIO | None = None) -> None:
    """Prints what a program ends with (to stdout when None). A full disk or a reader that is gone makes no failure of what
    went well, nor do signs that the stream has no bytes for: they are spelled out."""
    stream = stream or sys.stdout
    assert stream is not None
    encoding = stream.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except OSError:
        silence(stream)


def silence(stream: TextIO) -> None:
    """Drops what a stream cannot write, which would fail again as the program ends."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def code_of(act: Callable[[], int], say: Callable[[UserError], None]) -> int:
    """Does what may be refused or interrupted, and returns the exit code; `say` tells a person of a refusal."""
    try:
        with refusing_denials():
            return act()
    except UserError as refusal:
        say(refusal)
        return refusal.exit_code
    except KeyboardInterrupt:
        tell("interrupted", sys.stderr)
        return EXIT_INTERRUPTED
    except RuntimeError as error:
        # Further lines may be of another program, such as one that reads samples.
        if not (_has_process_groups() and _GONE.search(reason_of(error))):
            raise
        # Where this rank was says little, and a thousand ranks would say it on one console.
        log.info("another rank is gone, while this one was here:", exc_info=error, extra={"file_only": True})
        lost = _lost_rank(error)
        say(lost)
        return lost.exit_code
    except BaseException as error:
        if not is_panic(error):
            raise
        told = "What it was given is damaged, or it is at fault: see what was said before"
        say(UserError(f"a library gave up: {reason_of(error)}. {told}"))
        return EXIT_REFUSED


def leave(code: int) -> NoReturn:
    """Ends the program, after a failure by the shortest way where threads may still work in PyTorch.

    A thread that waits for the interpreter while that ends is ended by it (until Python 3.14), in the middle of C++. gloo's
    threads, of which Python's threading knows nothing, wait so to drop the last reference to a tensor that was reduced: the
    way out of that destructor is std::terminate, "terminate called without an active exception" and code 134. A run that
    went well has given up its process groups, which waits for their threads.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            silence(stream)
    if code not in (EXIT_FINISHED, EXIT_REQUEUE) and (threading.active_count() > 1 or _has_process_groups()):
        os._exit(code)
    sys.exit(code)


def _lost_rank(error: RuntimeError) -> LostRankError:
    said = _AROUND.sub("", reason_of(error))
    return LostRankError(
        f"another rank is gone, or the network to it: {said}. This one cannot go on without it. Look for what that rank said "
        "last, and what its launcher says of it"
    )


def _has_process_groups() -> bool:
    """Whether process groups are open, in a program that has loaded PyTorch."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()
