"""Panics of libraries that are written in Rust: no Exception of Python's, so that `except Exception` lets them through."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from dist_plm.core.errors import UserError, reason_of

#: The descriptor to which Rust writes.
_STDERR = 2


def is_panic(error: BaseException) -> bool:
    """Whether a Rust library gave up; PyO3 makes the class at run time, in every library anew."""
    return type(error).__name__ == "PanicException"


@contextmanager
def panics_as(kind: type[UserError], message: str) -> Iterator[None]:
    """Raises `kind` with `message` and the reason where a Rust library panics within the block."""
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        raise kind(f"{message}: {reason_of(error)}") from None


@contextmanager
def without_words_of_panics() -> Iterator[None]:
    """Holds back what the process writes to stderr within the block, and drops it where a Rust library panics: it prints a
    message, and what its stack was, before anybody can say it in words."""
    sys.stderr.flush()
    stderr, panicked = os.dup(_STDERR), False
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        except BaseException as error:
            panicked = is_panic(error)
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, _STDERR)
            os.close(stderr)
            held.seek(0)
            if not panicked and (words := held.read()):
                os.write(_STDERR, words)
