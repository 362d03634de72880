"""Declares learning to answer in dialogues: instructions, conversations."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from dist_plm.spec.families.base import Kind
from dist_plm.spec.tasks.base import Column, WritingConfig

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
    `from` and `value`, as ShareGPT has them), or a prompt and its completion.

    `template` is the Jinja text that writes a dialogue out, None: that of the tokenizer, or a plain one where it has none.
    With `packing` several dialogues share a row, none of which sees another."""

    body: ClassVar[str] = "tasks.chat"
    learners: ClassVar[tuple[Kind, ...]] = ("decoder",)
    loss_terms: ClassVar[tuple[str, ...]] = ("chat",)
    columns: ClassVar[Mapping[str, Column]] = {
        "messages": Column(("messages", "conversations", "conversation", "dialog", "dialogue"), optional=True),
        "system": Column(("system",), optional=True),
        "prompt": Column(("prompt", "instruction", "question"), optional=True),
        "completion": Column(("completion", "response", "output", "answer"), optional=True),
    }
    answer: ClassVar[str] = "completion"
    measures: ClassVar[tuple[str, ...]] = ("perplexity", "accuracy")
    falling: ClassVar[tuple[str, ...]] = ("loss", "perplexity")

    name: Literal["chat"] = "chat"
    template: str | None = None
    packing: bool = False

    def with_template(self, found: str | None) -> Self:
        return self if self.template is not None else replace(self, template=found or PLAIN)

    @property
    def isolates_documents(self) -> bool:
        return self.packing

    @property
    def restarts_positions(self) -> bool:
        return self.packing
