"""Tells beforehand what ranks would refuse to answer, by making the rows that they would answer."""

from collections.abc import Sequence

from dist_plm.core.errors import ConfigError
from dist_plm.objectives.tasks.base import Question
from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.tasks import TaskConfig
from dist_plm.spec.tasks.chat import ChatConfig
from dist_plm.tasks.generate.fill_mask import masked_tokens
from dist_plm.tasks.generate.prompts import PromptRow, check_known, read_prompts, rows_of
from dist_plm.tasks.inference.open_model import FoundModel, check_heads, look_at_model
from dist_plm.tasks.inference.outputs import check_out

#: What bears on texts that are written, and not on what is filled in.
_OF_WRITING = (
    "max_new_tokens",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "num_beams",
    "samples",
    "stop",
    "begin",
    "chat",
)


def check_generation(config: GenerateConfig, world_size: int) -> None:
    """Sees to it, in one process that builds no model, that so many ranks can answer all prompts.

    Raises:
        UserError: they would refuse it.
    """
    check_out(config.out, config)
    prompts = read_prompts(config)
    found = look_at_model(config, world_size)
    check_heads(found)
    check_known(prompts, config, found.vocabulary)
    if found.config.model.is_encoder:
        rows_to_fill(config, found, list(map(str, prompts)))
    else:
        rows_to_write(config, found, prompts)


def rows_to_write(
    config: GenerateConfig, found: FoundModel, prompts: Sequence[Question], *, shortens: bool = False
) -> list[PromptRow]:
    """Makes the rows of a model that writes; see prompts.rows_of."""
    problems = list(no_effect(config, "", ["best"], "a model that writes"))
    model, objective = found.config.model, found.config.objective
    if isinstance(objective, TaskConfig) and objective.writes:
        reason = f"a run of task.name = {objective.name!r}, which gets its prompts as in training"
        problems += no_effect(config, "", ["begin"] if isinstance(objective, ChatConfig) else ["begin", "chat"], reason)
    elif model.has_decoder:
        problems += no_effect(config, "", ["begin"], f"model.family = {model.family!r}, whose encoder reads prompts")
    if problems:
        raise ConfigError(problems)
    return rows_of(prompts, config, found, shortens=shortens)


def rows_to_fill(config: GenerateConfig, found: FoundModel, prompts: Sequence[str]) -> list[list[int]]:
    """Makes the rows of a masked model."""
    if problems := list(no_effect(config, "", _OF_WRITING, "a masked model, which fills in")):
        raise ConfigError(problems)
    model = found.config.model
    limit = model.position_limit
    return [masked_tokens(number, prompt, limit, found.vocabulary) for number, prompt in enumerate(prompts)]
