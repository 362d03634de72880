"""Checks that the objective's own settings make sense, and that a sample is long enough for it."""

from collections.abc import Callable, Iterator

from dist_plm.spec.derived import Case


def _own(case: Case) -> Iterator[str]:
    yield from case.config.objective.problems(case)


def _length(case: Case) -> Iterator[str]:
    objective, length = case.config.objective, case.config.data.sequence_length
    if length < objective.least_length:
        yield (
            f"data.sequence_length = {length} is too short for objective.name = {objective.name!r}, which adds special "
            f"tokens to the text: give at least {objective.least_length}"
        )


OBJECTIVE_RULES: tuple[Callable[[Case], Iterator[str]], ...] = (_own, _length)
