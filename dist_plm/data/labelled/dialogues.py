"""Writes dialogues out by the template of a tokenizer, and tells which characters of them the assistant says."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dist_plm.core.errors import DataError, reason_of
from dist_plm.core.parsing import load_json
from dist_plm.data.sources.written_lists import literal_in, looks_listed, no_list

Message = dict[str, str]
#: Files that may hold a tokenizer's template.
TEMPLATE_FILE, CONFIG_FILE = "chat_template.jinja", "tokenizer_config.json"
#: What ShareGPT and others call the roles.
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant"}
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Rendered(NamedTuple):
    """Holds a dialogue as text, and the spans of it, [begin, end), that are learned."""

    text: str
    spans: tuple[tuple[int, int], ...]


def template_beside(path: str) -> str | None:
    """Reads the template of the tokenizer at `path`, a file or a directory; None where it has none.

    Raises:
        DataError: it cannot be read.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    try:
        if (folder / TEMPLATE_FILE).is_file():
            return (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
        if not (folder / CONFIG_FILE).is_file():
            return None
        found = load_json((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"the chat template of the tokenizer {path} cannot be read: {reason_of(error)}") from None
    if isinstance(found, list):  # several, by name
        named = [one for one in found if isinstance(one, dict) and one.get("name") == "default"]
        found = named[-1].get("template") if named else None
    return found if isinstance(found, str) else None


def messages_of(value: Any, place: str) -> list[Message]:
    """Messages with `role` and `content`, out of those of OpenAI or ShareGPT, also as text.

    Raises:
        DataError: they are no messages.
    """
    if isinstance(value, str):
        found = literal_in(value)
        if found is None and looks_listed(value):
            raise no_list(value, place)
        value = found
    if not isinstance(value, list) or not value:
        raise DataError(f"{place} holds no list of messages: mend or remove the row")
    messages = []
    for number, one in enumerate(value, 1):
        role, content = (_first(one, names) for names in (("role", "from"), ("content", "value")))
        if role is None or content is None:
            raise DataError(f"{place}: message {number} has no role and content that are text: mend or remove the row")
        messages.append({"role": _ROLES.get(role, role), "content": content})
    return messages


def _first(message: Any, names: Sequence[str]) -> str | None:
    if not isinstance(message, Mapping):
        return None
    return next((message[name] for name in names if isinstance(message.get(name), str)), None)


def render(messages: Sequence[Message], template: str, names: Mapping[str, str], place: str) -> Rendered:
    """Writes a dialogue out. What is learned follows from the template's marks (`{% generation %}`), else from what each turn
    of the assistant adds to the text, white space behind it left out.

    Args:
        names: of special tokens that templates use, as `eos_token`.
    Raises:
        DataError: the template refuses the dialogue, or fails on it, or does not tell what is the assistant's.
    """
    if _MARKS.search(template):
        text, spans = _written(messages, template, names, place)
        return Rendered(text, spans)
    text, _ = _written(messages, template, names, place)
    spans = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            before = prompt_of(messages[:number], template, names, place)
            after, _ = _written(messages[: number + 1], template, names, place)
            if not (text.startswith(before) and text.startswith(after.rstrip())):
                raise DataError(
                    f"{place}: the chat template writes turn {number + 1} otherwise where others follow, so that what the "
                    "assistant says cannot be told: give a template with {% generation %} marks in task.template"
                )
            spans.append((len(before), len(after.rstrip())))
    return Rendered(text, tuple(spans))


def written_out(messages: Sequence[Message], template: str, names: Mapping[str, str], place: str) -> str:
    """The text of a dialogue."""
    return _written(messages, template, names, place)[0]


def prompt_of(messages: Sequence[Message], template: str, names: Mapping[str, str], place: str) -> str:
    """The text behind which the assistant answers."""
    text, _ = _written(messages, template, names, place, add_generation_prompt=True)
    return text


def _written(
    messages: Sequence[Message], template: str, names: Mapping[str, str], place: str, **options: bool
) -> tuple[str, tuple[tuple[int, int], ...]]:
    # Takes seconds to load.
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    marks = bool(_MARKS.search(template)) and not options
    try:
        known: dict[str, Any] = {**options, **names}
        texts, spans = render_jinja_template(
            [list(messages)], chat_template=template, return_assistant_tokens_mask=marks, **known
        )
    except TemplateError as error:
        raise DataError(f"{place}: the chat template refuses the dialogue: {error}") from None
    except Exception as error:  # a template computes, and what that raises is not known
        raise DataError(
            f"{place}: the chat template cannot write the dialogue ({type(error).__name__}: {reason_of(error)}): mend the "
            "template, or the row where others can be written"
        ) from None
    return str(texts[0]), tuple((int(begin), int(end)) for begin, end in spans[0]) if marks else ()
