"""Dialogues: what the assistant says is learned, on what was said before it (Ouyang et al. 2022, section 3.5)."""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.dialogues import Message, messages_of, prompt_of, render, written_out
from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.data.sampling.packers import best_fit
from dist_plm.objectives.base import LossTerm
from dist_plm.objectives.tasks.base import (
    CUT,
    Columns,
    Question,
    Scorer,
    TextEncoder,
    lost_tokens,
    next_tokens,
    text_of,
    value_of,
    written,
)
from dist_plm.objectives.tasks.likely_texts import FILLS
from dist_plm.spec.tasks.chat import ChatConfig

#: Documents of a row are numbered from 0; its padding is none of them.
_NO_DOCUMENT = 2**20
Ids = list[int]
Mask = list[bool]


@dataclass(frozen=True, slots=True)
class Chat:
    """See tasks.base.Task."""

    config: ChatConfig
    fills: Mapping[str, int] = field(default_factory=lambda: {**FILLS, "documents": _NO_DOCUMENT})

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {"chat": LossTerm(1.0, "labels")}

    def labels(self, rows: Iterable[LabelledRow], columns: Mapping[str, str]) -> set[str]:
        return set()

    def encode(self, rows: Sequence[LabelledRow], columns: Mapping[str, str], encoder: TextEncoder) -> Columns:
        special = _any_of(encoder.special_texts)
        if encoder.has_decoder:
            return self._for_encoder_decoder(rows, columns, encoder, special)
        whole = [self._encoded(_with_answer(row, columns), row.place, encoder, special) for row in rows]
        room = _room(encoder)
        lost = np.array([sum(mask[room:]) for _, mask in whole])
        dialogues = [(ids[:room], mask[:room]) for ids, mask in whole]
        if self.config.packing:
            return {**_packed(dialogues, encoder), CUT: lost}
        return {**next_tokens([ids for ids, _ in dialogues], [mask for _, mask in dialogues], encoder), CUT: lost}

    def prompts(self, asked: Sequence[Question], encoder: TextEncoder) -> list[Ids]:
        """Gives the tokens behind which the assistant answers what a user says, or a dialogue so far, however many."""
        prompts = []
        for one in asked:
            messages = [{"role": "user", "content": one}] if isinstance(one, str) else [dict(said) for said in one]
            prompts.append(self._prompt(messages, "the prompt", encoder))
        return prompts

    def ends(self, encoder: TextEncoder) -> list[int]:
        """Gives the special token that ends what the assistant says, where the template has one."""
        if encoder.has_decoder:
            return []
        said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        text = written_out(said, self._template, encoder.special_names, "the chat template")
        last = encoder.marked(text.rstrip())[0][-1]
        return [last] if last in encoder.special_ids else []

    def is_answered(self, row: LabelledRow, columns: Mapping[str, str]) -> bool:
        return any(one["role"] == "assistant" for one in _messages(row, columns))

    def pair(self, row: LabelledRow, columns: Mapping[str, str]) -> tuple[Question, str | None]:
        """Gives a dialogue up to what the assistant says last, and that."""
        messages = _messages(row, columns)
        answered = messages[-1]["role"] == "assistant"
        return (messages[:-1], messages[-1]["content"]) if answered else (messages, None)

    def soft(self, table: Mapping[str, Any]) -> Mapping[str, NDArray[np.float32]]:
        return {}

    def scorer(self, table: Mapping[str, Any]) -> Scorer:
        raise NotImplementedError("the loss measures it")

    @property
    def _template(self) -> str:
        return self.config.chat_template

    def _prompt(self, messages: list[Message], place: str, encoder: TextEncoder) -> Ids:
        """Gives the tokens behind which the assistant speaks next, or that an encoder reads before."""
        ids = encoder.marked(prompt_of(messages, self._template, encoder.special_names, place))[0]
        return [*ids, encoder.end] if encoder.has_decoder else ids

    def _for_encoder_decoder(
        self,
        rows: Sequence[LabelledRow],
        columns: Mapping[str, str],
        encoder: TextEncoder,
        special: re.Pattern[str] | None,
    ) -> Columns:
        """Columns with a row for each turn of the assistant."""
        sources, answers, turns_of = [], [], []
        for row in rows:
            messages = _with_answer(row, columns)
            _refuse_special(messages, special, row.place)
            turns = [turn for turn, one in enumerate(messages) if one["role"] == "assistant" and turn > 0]
            if not turns:
                raise DataError(
                    f"{row.place}: nobody says anything before the assistant, so that there is nothing to read: mend or remove "
                    "the row"
                )
            sources += [self._prompt(messages[:turn], row.place, encoder)[-encoder.length :] for turn in turns]
            answers += [messages[turn]["content"] for turn in turns]
            turns_of.append(len(turns))
        texts = encoder.pieces(answers)
        lost = np.add.reduceat(lost_tokens(texts, encoder.length - 1), np.cumsum([0, *turns_of[:-1]]))
        return {**written(sources, texts, encoder.length, encoder), CUT: lost}

    def _encoded(
        self, messages: Sequence[Message], place: str, encoder: TextEncoder, special: re.Pattern[str] | None
    ) -> tuple[Ids, Mask]:
        """Tokens of a dialogue, and which of them are learned: those that any character of a learned span is in."""
        _refuse_special(messages, special, place)
        rendered = render(messages, self._template, encoder.special_names, place)
        ids, offsets = encoder.marked(rendered.text)
        mask = [any(begin < end and start < stop for start, end in rendered.spans) for begin, stop in offsets]
        if all(mask) and any(one["role"] != "assistant" for one in messages):
            raise DataError(
                f"{place}: all of the dialogue is marked as what the assistant says: put the template's {{% generation %}} "
                "marks around that alone"
            )
        if not any(mask[1 : _room(encoder)]):
            raise DataError(
                f"{place}: nothing that the assistant says is within data.sequence_length = {encoder.length} tokens: raise it, "
                "or shorten or remove the row"
            )
        return ids, mask


def _room(encoder: TextEncoder) -> int:
    """Counts the tokens of a dialogue that fit: the last one is predicted alone."""
    return encoder.length + 1


def _with_answer(row: LabelledRow, columns: Mapping[str, str]) -> list[Message]:
    """The messages of a row, some of which are the assistant's."""
    if not {"messages", "completion"} & columns.keys():
        raise DataError(_no_dialogue(row))
    messages = _messages(row, columns)
    if all(one["role"] != "assistant" or not one["content"].strip() for one in messages):
        raise DataError(
            f"{row.place}: the assistant says nothing, so that there is nothing to learn: mend or remove the row"
        )
    return messages


def _messages(row: LabelledRow, columns: Mapping[str, str]) -> list[Message]:
    """The messages of a row, or of its prompt and, where it has one, completion."""
    written = value_of(row, columns["messages"]) if "messages" in columns else None
    asks = {"prompt", "input"} & columns.keys()
    if written is not None or ("messages" in columns and not asks):
        messages = messages_of(written, row.place)
    elif asks:
        messages = [{"role": "user", "content": _asked(row, columns)}]
        if "completion" in columns:
            messages.append({"role": "assistant", "content": text_of(row, columns["completion"])})
    else:
        raise DataError(_no_dialogue(row))
    system = value_of(row, columns["system"]) if "system" in columns else None
    if system is not None and not isinstance(system, str):
        raise DataError(f"{row.place}: column {columns['system']!r} is {type(system).__name__}, no text: mend the row")
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _asked(row: LabelledRow, columns: Mapping[str, str]) -> str:
    """The prompt of a row, and what it is about where that stands in a column of its own, which may be empty."""
    prompt, about = columns.get("prompt"), columns.get("input")
    if prompt is None or about is None or prompt == about:
        return text_of(row, prompt or about or "")
    text = value_of(row, about)
    has_more = text is not None and not (isinstance(text, str) and not text.strip())
    return f"{text_of(row, prompt)}\n\n{text_of(row, about)}" if has_more else text_of(row, prompt)


def _no_dialogue(row: LabelledRow) -> str:
    return (
        f"{row.place}: there are neither messages nor a prompt and its completion in the columns {', '.join(row.values)}: "
        "name them, as in data.columns.messages=NAME"
    )


def _refuse_special(messages: Sequence[Message], special: re.Pattern[str] | None, place: str) -> None:
    """Sees to it that nobody says a token that begins or ends turns or texts."""
    for message in messages:
        if special is not None and (said := special.search(message["content"])):
            raise DataError(
                f"{place}: the text of a message holds {said[0]!r}, a special token, which would end it: mend or remove the row"
            )


def _any_of(texts: Collection[str]) -> re.Pattern[str] | None:
    """Builds what finds any of some texts; None of none."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True)))) if texts else None


def _packed(dialogues: Sequence[tuple[Ids, Mask]], encoder: TextEncoder) -> Columns:
    """Columns of rows that hold as many dialogues as fit, in the order of the file within each row."""
    lengths = [len(ids) - 1 for ids, _ in dialogues]
    starts = [0, *accumulate(lengths)]
    pieces = list(zip(starts, lengths, strict=False))
    packed = [[bisect_left(starts, start) for start, _ in row] for row in best_fit(pieces, encoder.length)]
    alone = next_tokens([ids for ids, _ in dialogues], [mask for _, mask in dialogues], encoder)
    numbers = [[place for place, one in enumerate(row) for _ in range(lengths[one])] for row in packed]
    positions = [[place for one in row for place in range(lengths[one])] for row in packed]
    columns = {name: [[*_joined(column, row)] for row in packed] for name, column in alone.items()}
    columns |= {"documents": numbers, "positions": positions}
    return {name: encoder.ragged(rows) for name, rows in columns.items()}


def _joined(column: Any, row: Sequence[int]) -> Iterable[int]:
    return (int(value) for one in row for value in column[one])


def build(config: ChatConfig) -> Chat:
    return Chat(config)
