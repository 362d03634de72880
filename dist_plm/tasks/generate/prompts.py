"""Reads prompts, and makes rows of tokens of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dist_plm.core.errors import ConfigError, DataError, reason_of
from dist_plm.core.parsing import load_json
from dist_plm.core.regular import read_regular
from dist_plm.data.labelled.encode import ExampleEncoder
from dist_plm.data.reach import MOST_UNKNOWN, check_reach, without
from dist_plm.objectives.build import build_writing_task
from dist_plm.objectives.tasks.base import Question
from dist_plm.spec.families import ModelConfig
from dist_plm.spec.inference.schema import GenerateConfig
from dist_plm.spec.tasks import TaskConfig
from dist_plm.spec.tasks.chat import ChatConfig
from dist_plm.tasks.inference.open_model import FoundModel
from dist_plm.tasks.inference.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class PromptRow:
    """Holds a prompt that is to be answered.

    Args:
        number: by which its draws are keyed.
        tokens: model input.
        room: tokens that may be written.
        goes_on: what is written goes on with the prompt, and is no answer to it.
    """

    number: int
    prompt: str
    tokens: tuple[int, ...]
    room: int
    goes_on: bool = True


def read_prompts(config: GenerateConfig) -> list[str]:
    """The prompt, or those of a file: each line, or a column of a .jsonl.

    Raises:
        DataError: the file cannot be read, or holds none.
    """
    if config.prompts is None:
        assert config.prompt is not None
        return [config.prompt]
    try:
        text = bytes(read_regular(config.prompts)).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"prompts = {config.prompts} cannot be read: {reason_of(error, config.prompts)}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"prompts = {config.prompts} is not UTF-8 text (byte {error.start:,})") from None
    lines = re.split("\r\n|\r|\n", text)  # and not at U+2028 and its like, which JSON may hold
    if config.prompts.endswith(".jsonl"):
        prompts = [_column(line, config, number) for number, line in enumerate(lines, 1) if line.strip()]
    else:
        prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise DataError(f"prompts = {config.prompts} holds no prompt: write one a line")
    return prompts


def check_known(prompts: Sequence[Question], config: GenerateConfig, vocabulary: Vocabulary) -> None:
    """Raises DataError where prompts are of another language than the model's tokenizer."""
    pieces, tokenizer = vocabulary.tokenizer.pieces(), vocabulary.tokenizer
    names = [pieces[number] for number in vocabulary.special.ids if number < len(pieces)]
    written = [
        prompt if isinstance(prompt, str) else " ".join(part["content"] for part in prompt) for prompt in prompts
    ]
    texts = [without(names, text) for text in written]
    what = "of the prompt" if config.prompts is None else f"of {config.prompts}"
    check_reach(tokenizer, texts, MOST_UNKNOWN, what, f", {vocabulary.where}: ask in the language of the model")


def _column(line: str, config: GenerateConfig, number: int) -> str:
    where = f"prompts = {config.prompts}, line {number}"
    try:
        content = load_json(line)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}") from None
    text = content.get(config.column) if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{where} has no text in {config.column!r}: name the column with column=NAME")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: its text holds half of a character, \\ud800 to \\udfff alone: mend or remove the line"
        ) from None
    return text


def task_of(config: GenerateConfig, found: FoundModel) -> TaskConfig | None:
    """The task that tells how prompts are written: that of the run, or a dialogue where one is asked for."""
    objective = found.config.objective
    if isinstance(objective, TaskConfig) and objective.writes:
        return objective
    if config.chat and found.config.model.has_decoder:
        raise ConfigError([f"chat = true: {found.source.where} has an encoder and no template: leave it out"])
    return ChatConfig().with_template(found.vocabulary.template) if config.chat else None


def encoder_of(found: FoundModel) -> ExampleEncoder:
    """Builds what turns texts into tokens for the model's task."""
    run = found.config
    return ExampleEncoder(found.vocabulary.tokenizer, run.data.sequence_length, run.model.has_decoder)


def rows_of(
    prompts: Sequence[Question], config: GenerateConfig, found: FoundModel, *, shortens: bool = False
) -> list[PromptRow]:
    """Rows for a model that writes: each prompt config.samples times, as the task has it where there is one. Of a dialogue what
    was said last is shown.

    Args:
        shortens: a prompt that leaves no room loses its beginning.
    Raises:
        ConfigError: a prompt leaves no room for an answer.
    """
    model, vocabulary, task = found.config.model, found.vocabulary, task_of(config, found)
    rows, encoder = [], encoder_of(found)
    for number, prompt in enumerate(prompts):
        if task is not None:
            tokens = tuple(build_writing_task(task).prompts([prompt], encoder)[0])
        else:
            tokens = _tokens(str(prompt), config, model, vocabulary)
        if shortens:
            tokens = shortened(tokens[-encoder.length :], config.max_new_tokens, model)
        where = "prompt" if config.prompts is None else f"prompts = {config.prompts}: prompt {number + 1}"
        room = room_for(where, len(tokens), config, model)
        shown = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        goes_on = task is None and not model.has_decoder
        numbers = range(number * config.samples, (number + 1) * config.samples)
        rows += [PromptRow(one, shown, tokens, room, goes_on) for one in numbers]
    return rows


def _tokens(prompt: str, config: GenerateConfig, model: ModelConfig, vocabulary: Vocabulary) -> tuple[int, ...]:
    special = vocabulary.special
    if model.has_decoder:
        eos = vocabulary.tokenizer.end_of_document_id if special.eos is None else special.eos
        return (*vocabulary.encode_marked(prompt, special.sentinels), eos)
    tokens = vocabulary.encode(prompt)
    begins = vocabulary.begins_texts if config.begin is None else config.begin
    return tuple([vocabulary.beginning, *tokens] if begins or not tokens else tokens)


def shortened(tokens: Sequence[int], most_new: int, model: ModelConfig) -> tuple[int, ...]:
    """A prompt, without its beginning where it leaves a decoder no position for an answer: half of them are then for the
    answer, of at most `most_new` tokens."""
    limit = model.position_limit
    if limit is None or model.has_decoder or len(tokens) < limit:
        return tuple(tokens)
    room = max(min(most_new, limit // 2), 1)
    return tuple(tokens[len(tokens) - limit + room :])


def room_for(where: str, length: int, config: GenerateConfig, model: ModelConfig) -> int:
    """Counts the tokens that may be written behind a prompt of `length` tokens.

    Raises:
        ConfigError: there is no position for any; it names `where` the prompt stands.
    """
    limit = model.position_limit
    if limit is None:
        return config.max_new_tokens
    if length > limit or (length == limit and not model.has_decoder):
        raise ConfigError(
            [f"{where} has {length:,} tokens, and the model {limit:,} positions for it and its answer: shorten it"]
        )
    return min(config.max_new_tokens, limit if model.has_decoder else limit - length)
