"""Declares learning to answer in dialogues: instructions, conversations."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from dist_plm.config.types import Prose
from dist_plm.spec.families.base import Kind
from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.tasks.base import Column, WritingConfig

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case

#: A template for tokenizers without one.
PLAIN = """{%- for message in messages %}
{%- if message.role == "assistant" -%}
Assistant:{% generation %} {{ message.content }}{{ eos_token }}{% endgeneration %}{{ "\\n" }}
{%- else -%}
{{ message.role | capitalize }}: {{ message.content }}{{ "\\n" }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}Assistant:{% endif %}"""


@dataclass(frozen=True, kw_only=True)
class ChatConfig(WritingConfig):
    """Learns what the assistant says, and nothing else of a dialogue. Rows hold messages of a role and a content (or
    `from` and `value`, as ShareGPT has them), or a prompt and its completion; an `input`, as in Alpaca's rows, follows the
    prompt after an empty line.

    `template` is the Jinja text that writes a dialogue out, None: that of the tokenizer, or a plain one where it has none.
    With `packing` several dialogues share a row, none of which sees another. An encoder reads a dialogue up to what the
    assistant says, which its decoder writes: each turn of the assistant is an example."""

    body: ClassVar[str] = "tasks.chat"
    learners: ClassVar[tuple[Kind, ...]] = ("decoder", "encoder_decoder")
    loss_terms: ClassVar[tuple[str, ...]] = ("chat",)
    columns: ClassVar[Mapping[str, Column]] = {
        "messages": Column(("messages", "conversations", "conversation", "dialog", "dialogue"), optional=True),
        "system": Column(("system",), optional=True),
        "prompt": Column(("prompt", "instruction", "question"), optional=True),
        "input": Column(("input",), optional=True),
        "completion": Column(("completion", "response", "output", "answer"), optional=True),
    }
    answer: ClassVar[str] = "completion"
    measures: ClassVar[tuple[str, ...]] = ("perplexity", "accuracy")
    falling: ClassVar[tuple[str, ...]] = ("loss", "perplexity")

    name: Literal["chat"] = "chat"
    template: Prose | None = None
    packing: bool = False

    @property
    def chat_template(self) -> str:
        return self.template or PLAIN

    def with_template(self, found: str | None) -> Self:
        return self if self.template is not None else replace(self, template=found or PLAIN)

    def target_length(self, sequence_length: int) -> int | None:
        return sequence_length

    def problems(self, case: "Case") -> Iterator[str]:
        model = case.config.model
        if model.has_decoder:
            told = f"model.family = {model.family!r}, whose encoder reads each dialogue apart"
            yield from no_effect(self, "task", ("packing",), told)

    @property
    def isolates_documents(self) -> bool:
        return self.packing
