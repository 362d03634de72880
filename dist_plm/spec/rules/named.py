"""Checks what the chosen objective, optimizer and engine say of themselves, and what they need of each other."""

from collections.abc import Callable, Iterator

from dist_plm.config.extending.bodies import body_problem, mentions
from dist_plm.spec.derived import Case
from dist_plm.spec.families.base import NETWORKS_OF, no_network
from dist_plm.spec.rules.sections import no_effect


def _objective(case: Case) -> Iterator[str]:
    objective, length = case.config.objective, case.config.data.sequence_length
    yield from objective.problems(case)
    if length < objective.least_length:
        yield (
            f"data.sequence_length = {length} is too short for {objective.told}, which adds special "
            f"tokens to the text: give at least {objective.least_length}"
        )


def _bodies(case: Case) -> Iterator[str]:
    """Asks what each named thing has to run; its source alone, as an import takes seconds."""
    config = case.config
    for told, module in (
        (config.objective.told, config.objective.body_module),
        (f"optim.name = {config.optim.name!r}", config.optim.body_module),
        (f"engine.name = {config.engine.name!r}", config.engine.body_module),
    ):
        if problem := body_problem(told, module):
            yield problem
    if not mentions(NETWORKS_OF, config.model.family):
        yield no_network(config.model)


def _optimizer(case: Case) -> Iterator[str]:
    optim = case.config.optim
    yield from optim.problems(case.config)
    if optim.lr_batch is None:
        yield from no_effect(optim, "optim", ("lr_scaling",), "optim.lr_batch = null, the batch that it scales from")


def _engine(case: Case) -> Iterator[str]:
    yield from case.config.engine.problems(case.config)


NAMED_RULES: tuple[Callable[[Case], Iterator[str]], ...] = (_bodies, _objective, _optimizer, _engine)
