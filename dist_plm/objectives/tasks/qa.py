"""Extractive question answering: where in a text the answer begins and ends (Devlin et al. 2019, sections 4.2 and 4.3)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.question_windows import QuestionWindows
from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.data.labelled.table import Ragged
from dist_plm.objectives.base import LossTerm
from dist_plm.objectives.tasks.answers import Answer, AnswerScorer, answers_of
from dist_plm.objectives.tasks.base import CUT, Columns, Scorer, TextEncoder, text_of, value_of
from dist_plm.spec.tasks.qa import QaConfig


@dataclass(frozen=True, slots=True)
class Qa:
    """See tasks.base.Task. Its examples are windows; `about` and `is_first` of the first window of each question tell its id,
    its text and the texts of its true answers."""

    config: QaConfig
    fills: Mapping[str, int] = field(default_factory=dict)

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {"start": LossTerm(0.5, "starts"), "end": LossTerm(0.5, "ends")}

    def labels(self, rows: Iterable[LabelledRow], columns: Mapping[str, str]) -> set[str]:
        return set()

    def encode(self, rows: Sequence[LabelledRow], columns: Mapping[str, str], encoder: TextEncoder) -> Columns:
        if not encoder.has_frame:
            raise DataError(
                "the tokenizer has no [CLS] and [SEP] (<s> and </s>), between which task=qa reads questions and texts: take "
                "an encoder's, such as BERT's or RoBERTa's"
            )
        contexts = [text_of(row, columns["context"]) for row in rows]
        questions = [text_of(row, columns["question"]) for row in rows]
        config = self.config
        answers = [
            answers_of(row, columns["answers"], context, may_be_none=config.no_answer) if "answers" in columns else []
            for row, context in zip(rows, contexts, strict=True)
        ]
        length, stride = config.question_length(encoder.length), config.stride(encoder.length)
        windows = encoder.windows(questions, contexts, length, stride)
        starts, ends, nowhere = _targets(windows, answers, rows)
        is_first = np.diff(windows.rows, prepend=-1) > 0
        ids = [_id(row, columns) for row in rows]
        about = [
            {"id": one, "context": context, "answers": [answer.text for answer in known]}
            for one, context, known in zip(ids, contexts, answers, strict=True)
        ]
        told = [
            json.dumps(about[row]).encode() if first else b""
            for row, first in zip(windows.rows.tolist(), is_first.tolist(), strict=True)
        ]
        return {
            "tokens": windows.tokens,
            "segments": windows.segments,
            "starts": starts,
            "ends": ends,
            "context_at": windows.context_at,
            "char_starts": windows.char_starts,
            "char_ends": windows.char_ends,
            "is_first": is_first.astype(np.int8),
            CUT: nowhere,
            "about": Ragged(np.frombuffer(b"".join(told), np.uint8), np.cumsum([len(one) for one in told])),
        }

    def soft(self, table: Mapping[str, Any]) -> Mapping[str, NDArray[np.float32]]:
        return {}

    def scorer(self, table: Mapping[str, Any]) -> Scorer:
        return AnswerScorer(self.config, table)


def _id(row: LabelledRow, columns: Mapping[str, str]) -> str | None:
    value = value_of(row, columns["id"]) if "id" in columns else None
    return None if value is None else str(value)


def _targets(
    windows: QuestionWindows, answers: Sequence[Sequence[Answer]], rows: Sequence[LabelledRow]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The first and last token of the first true answer of each window's question, [W]; 0 where there is none, or not all of it
    is in the window; and the questions [Q] whose answer no window holds whole. Several tokens that spell one character have
    the same place: the first and the last of them count."""
    held: list[tuple[int, int] | None] = []
    spans: dict[int, tuple[int, int]] = {}
    for window, row in enumerate(windows.rows.tolist()):
        found = None
        if answers[row]:
            starts, ends = windows.char_starts[window], windows.char_ends[window]
            answer = answers[row][0]
            inside = np.flatnonzero((ends > answer.start) & (starts < answer.end) & (ends > starts))
            if len(inside):
                found = tuple((windows.firsts[window] + inside[[0, -1]]).tolist())
                first, last = spans.get(row, found)
                spans[row] = min(first, found[0]), max(last, found[1])
        held.append(found)
    for row, known in enumerate(answers):
        if known and row not in spans:
            raise DataError(
                f"{rows[row].place}: no token of the tokenizer holds the answer {known[0].text!r}: remove the row"
            )
    result = np.zeros((2, len(held)), dtype=np.int64)
    nowhere = np.array([bool(known) for known in answers])
    for window, (row, found) in enumerate(zip(windows.rows.tolist(), held, strict=True)):
        if found is not None and found == spans[row]:
            result[:, window] = np.array(found) - windows.firsts[window] + windows.context_at[window]
            nowhere[row] = False
    return result[0], result[1], nowhere


def build(config: QaConfig) -> Qa:
    return Qa(config)
