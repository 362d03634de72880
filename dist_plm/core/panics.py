"""Panics of libraries that are written in Rust: no Exception of Python's, so that `except Exception` lets them through."""

from collections.abc import Iterator
from contextlib import contextmanager

from dist_plm.core.errors import UserError, reason_of


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
