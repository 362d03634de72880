"""Builds the objective that a configuration names."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, cast

from dist_plm.config.extending.bodies import build_from, import_body, place_of
from dist_plm.core.errors import ConfigError
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.objectives.base import Objective, Reader
from dist_plm.objectives.tasks.base import ChangingTask, Task, WritingTask
from dist_plm.spec.objectives import ObjectiveConfig
from dist_plm.spec.tasks import TaskConfig


def build_objective(
    config: ObjectiveConfig,
    special: SpecialTokens | None = None,
    *,
    seed: int | None = None,
    sequence_length: int | None = None,
    has_decoder: bool = False,
) -> Objective[Any]:
    """Returns the objective of a configuration: its body is a module with `build` and, where a tokenizer may lack more
    than special tokens, `problems`.

    Args:
        special: of the data's tokenizer; None where it is not known, which serves only plain causal modelling.
        seed: of the run; needed wherever something is drawn.
        sequence_length: of the model's input; needed for pairs and spans.
        has_decoder: whether the model writes what is predicted with a decoder of its own.
    Raises:
        ConfigError: the tokenizer lacks something that the objective needs.
    """
    body = import_body(config.told, config.body_module)
    reader = Reader(sequence_length, has_decoder)
    problems = list(_problems(config, body, special, reader))
    if problems:
        raise ConfigError(problems)
    return _declared(config, build_from(config.told, config.body_module, config, special, seed, reader))


def build_task(config: TaskConfig) -> Task[Any]:
    """Returns the body of a task.

    Raises:
        ConfigError: it has none, or none that fits what the task declares.
    """
    return _declared(config, build_from(config.told, config.body_module, config))


def build_changing_task(config: TaskConfig) -> ChangingTask[Any]:
    """Returns the body of a task whose texts may be changed."""
    return cast("ChangingTask[Any]", build_task(config))


def build_writing_task(config: TaskConfig) -> WritingTask[Any]:
    """Returns the body of a task whose models write."""
    return cast("WritingTask[Any]", build_task(config))


def _declared(config: ObjectiveConfig, built: Any) -> Any:
    """Returns what was built, whose loss has the parts that its section says: evaluations and checkpoints count on these."""
    parts = tuple(built.losses)
    if parts == config.loss_terms:
        return built
    given, said = (", ".join(names) or "none" for names in (parts, config.loss_terms))
    section = f"{type(config).__name__} in {place_of(type(config).__module__)}"
    raise ConfigError(
        [
            f"{config.told}: the losses of {place_of(config.body_module)} are {given}, and loss_terms of {section} are {said}: "
            "give both the same names in the same order"
        ]
    )


def _problems(
    config: ObjectiveConfig, body: ModuleType, special: SpecialTokens | None, reader: Reader
) -> Iterator[str]:
    needed = config.needed_tokens
    if not needed:
        return
    objective = f"objective.name = {config.name!r}"
    if special is None:
        yield (
            f"{objective} needs special tokens ({', '.join(needed)}), but nothing is known of the data's tokenizer: "
            "give data.path a store that prepare_data wrote"
        )
        return
    missing = [name for name in needed if getattr(special, name) is None]
    if missing:
        yield (
            f"{objective} needs special tokens that the data's tokenizer does not have ({', '.join(missing)}): prepare "
            "the data with a tokenizer that has them, or choose another objective"
        )
    if hasattr(body, "problems"):
        yield from body.problems(config, special, reader)
