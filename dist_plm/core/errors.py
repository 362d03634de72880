"""The errors that mean "the user can mend this": launch scripts print them without a traceback and exit with code 2."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_FINISHED = 0
#: What Python reports for an exception that nobody expected.
EXIT_CRASHED = 1
EXIT_REFUSED = 2
EXIT_REQUEUE = 75
#: As sysexits.h has it for an error of input or output.
EXIT_NOT_SAVED = 74
#: What a shell reports for a program that was interrupted at the keyboard.
EXIT_INTERRUPTED = 130
#: As timeout(1) reports a command that it ended: a crash, for whoever starts runs again.
EXIT_HUNG = 124


def reason_of(error: BaseException, beside: object = None) -> str:
    """Says in one line why something failed, in words for a person, to follow a colon: of an error of the system what it was
    and with which file, without its number.

    Args:
        beside: the file that the message names already.
    """
    if isinstance(error, OSError) and error.strerror:
        file = error.filename2 or error.filename  # the second is where something was to be moved
        file = None if isinstance(file, int) else file
        return error.strerror if file is None or str(file) == str(beside) else f"{error.strerror} ({file})"
    if isinstance(error, RecursionError):
        return "it nests too deeply"
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, KeyError):
        return f"it has no {text}"
    if isinstance(error, FileNotFoundError):  # of storage of other makers
        return f"no such file ({text})"
    return "it holds a number of more than 4,300 digits" if "set_int_max_str_digits" in text else text


def count_of(number: int, noun: str, spec: str = "") -> str:
    """Counts things for a person: 1 file, 2 files, 2 processes.

    Args:
        spec: writes the number, as in a format string: "," parts thousands.
    """
    ending = "" if number == 1 else "es" if noun.endswith(("s", "x", "ch")) else "s"
    return f"{number:{spec}} {noun}{ending}"


def in_units(number: float) -> str:
    """Writes three digits and a unit: 124 M."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"


def described(error: BaseException) -> str:
    """Says why something failed that nobody expected, with the kind of error where its words alone are a riddle."""
    if isinstance(error, UserError):
        return str(error)
    return reason_of(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


class UserError(Exception):
    """Bad input: the message names what is wrong, where, and what to do. Exit code 2."""

    exit_code = EXIT_REFUSED

    def __reduce__(self) -> tuple[Any, ...]:
        # As it stands, not made anew: what some subclasses are made from is not the message that `args` holds.
        return _with_args, (type(self), self.args), self.__dict__


def _with_args(kind: type[UserError], args: tuple[object, ...]) -> UserError:
    return kind.__new__(kind, *args)


class ConfigError(UserError):
    """A configuration was refused. Carries every problem found, not the first alone.

    Args:
        problems: one complete sentence a problem, each naming key, value and remedy.
    """

    what = "configuration refused"

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(problems)
        head = f"{self.what}, {count_of(len(self.problems), 'problem')}:"
        super().__init__("\n".join([head, *(f"  - {p}" for p in self.problems)]))


class PreflightError(ConfigError):
    """The run cannot start where it is: known to all ranks alike, as a refused configuration is."""

    what = "the run cannot start here"


class NodeError(PreflightError):
    """The run cannot start on this node, of which ranks on others may know nothing: each node says it."""


class LacksError(ConfigError):
    """The device that the run is on lacks what it is asked for: another may have it."""


class NotRehearsedError(ConfigError):
    """A run cannot be rehearsed, which says nothing against it."""

    what = "not rehearsed"


class DataError(UserError):
    """A corpus, store or tokenizer cannot be used: missing, truncated, of another version, of another vocabulary."""


class CheckpointError(UserError):
    """A checkpoint cannot be used: missing, incomplete, damaged, or made by a run that does not fit this one.

    Args:
        reason: what is wrong, and where.
        remedy: what to do about it; commands other than the one it speaks of put their own in its place (`with_remedy`).
    """

    def __init__(self, reason: str, remedy: str | None = None) -> None:
        self.reason, self.remedy = reason, remedy
        super().__init__(reason if remedy is None else f"{reason}; {remedy}")


class Diverged(UserError):
    """A run whose loss or gradients are no longer finite: started again as it is, it would end in the same way."""


class ReplicasDifferError(UserError):
    """Ranks that must hold, or compute, the same do not: some machine of the run makes mistakes.

    Args:
        step: after which that was found.
        reason: who does not agree with whom, on what.
        remedy: what to do about it.
    """

    def __init__(self, step: int, reason: str, remedy: str) -> None:
        self.step, self.reason = step, reason
        super().__init__(f"step {step}: {reason}. Some machine makes mistakes. {remedy}")


class SaveFailedError(UserError):
    """A checkpoint could not be written; earlier ones are as they were. Started again, the run makes these steps again."""

    exit_code = EXIT_NOT_SAVED


class NotMetError(UserError):
    """The ranks of a run did not come together: started again, they may."""

    exit_code = EXIT_HUNG


class LostRankError(UserError):
    """Another rank of the program is gone, or the network to it: why, that rank knows. Started again, it may go well."""

    exit_code = EXIT_CRASHED


@contextmanager
def refusing_denials() -> Iterator[None]:
    """Raises UserError where this user may not read or write a file of the block, in place of the system's error."""
    try:
        yield
    except PermissionError as error:
        if error.filename is None:
            raise
        raise UserError(f"{reason_of(error)}: have its owner grant it, or name another place") from None


@contextmanager
def with_remedy(remedy: str) -> Iterator[None]:
    """Puts `remedy` in place of the one that a CheckpointError of the block has."""
    try:
        yield
    except CheckpointError as error:
        if error.remedy is None:
            raise
        raise CheckpointError(error.reason, remedy) from None
