"""Checks what the chosen objective, optimizer and engine say of themselves, and what they need of each other."""

from collections.abc import Callable, Iterator

from dist_plm.spec.derived import Case
from dist_plm.spec.rules.sections import no_effect


def _objective(case: Case) -> Iterator[str]:
    objective, length = case.config.objective, case.config.data.sequence_length
    yield from objective.problems(case)
    if length < objective.least_length:
        yield (
            f"data.sequence_length = {length} is too short for {objective.told}, which adds special "
            f"tokens to the text: give at least {objective.least_length}"
        )


def _optimizer(case: Case) -> Iterator[str]:
    optim = case.config.optim
    yield from optim.problems(case.config)
    if optim.lr_batch is None:
        yield from no_effect(optim, "optim", ("lr_scaling",), "optim.lr_batch = null, the batch that it scales from")


def _engine(case: Case) -> Iterator[str]:
    yield from case.config.engine.problems(case.config)


NAMED_RULES: tuple[Callable[[Case], Iterator[str]], ...] = (_objective, _optimizer, _engine)
