"""Reads the true answers of questions, and joins what a model says of windows to answers of its own."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError
from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.data.sources.written_lists import values_in
from dist_plm.objectives.metrics.exact_match import best_share, compare
from dist_plm.objectives.metrics.spans import best_spans
from dist_plm.objectives.tasks.base import value_of
from dist_plm.spec.tasks.qa import QaConfig


class Answer(NamedTuple):
    """A true answer, and where in its text it begins and ends, in characters."""

    text: str
    start: int
    end: int


def answers_of(row: LabelledRow, column: str, context: str, *, may_be_none: bool) -> list[Answer]:
    """Reads the answers of a row: `{"text": […], "answer_start": […]}`, or a list of objects with these, also as a text
    of JSON or of Python.

    Raises:
        DataError: there is none though there has to be one, or it does not stand where it says.
    """
    value, column = value_of(row, column), repr(column)
    value = values_in(value, f"{row.place}: column {column}")
    found = [
        _answer(text, start, context, f"{row.place}: column {column}") for text, start in _pairs(value, row, column)
    ]
    if not found and not may_be_none:
        raise DataError(
            f"{row.place}: the question has no answer: set task.no_answer=true where questions may have none, as in SQuAD 2.0"
        )
    return found


def _pairs(value: Any, row: LabelledRow, column: str) -> list[tuple[Any, Any]]:
    match value:
        case None:
            return []
        case {"text": list() as texts, "answer_start": list() as starts} if len(texts) == len(starts):
            return list(zip(texts, starts, strict=True))
        case {"text": str() as text, "answer_start": start}:
            return [(text, start)]
        case list() if all(isinstance(one, Mapping) and {"text", "answer_start"} <= one.keys() for one in value):
            return [(one["text"], one["answer_start"]) for one in value]
    raise DataError(
        f"{row.place}: column {column} holds no answers: they are written {{'text': [...], 'answer_start': [...]}}, the "
        "places in characters"
    )


def _answer(text: Any, start: Any, context: str, place: str) -> Answer:
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place} holds an answer without text: mend or remove the row")
    if isinstance(start, bool) or not isinstance(start, int):
        raise DataError(f"{place} has answer_start = {start!r}, which is no whole number of characters: mend the row")
    if start < 0 or context[start : start + len(text)] != text:
        at = f"; it stands at {context.find(text)}" if text in context else ", nor does it stand anywhere in it"
        raise DataError(
            f"{place}: the answer {text!r} does not stand in the text at character {start}{at}: mend the row"
        )
    begins = start + len(text) - len(text.lstrip())
    return Answer(text, begins, begins + len(text.strip()))


class Span(NamedTuple):
    """An answer that a window offers: its score, those of its two ends, and where it begins and ends in the text."""

    score: float
    start_logit: float
    end_logit: float
    start: int
    end: int


@dataclass(slots=True)
class _Question:
    spans: dict[tuple[int, int], Span] = field(default_factory=dict)
    #: The least that any window gives its first token, and the two parts of it.
    none: tuple[float, float, float] | None = None


class AnswerScorer:
    """Joins windows of a table of examples (tasks.qa) to answers, and measures these; see tasks.base.Scorer."""

    def __init__(self, config: QaConfig, table: Mapping[str, Any]) -> None:
        self._config, self._table = config, table
        self._question_of = np.cumsum(table["is_first"]) - 1
        self._first_windows = np.flatnonzero(table["is_first"])
        self._found: dict[int, _Question] = {}

    def add(self, rows: NDArray[np.int64], outputs: NDArray[np.float32]) -> None:
        """Takes note of windows [B], with the scores [B, S, 2] of each token as the first and the last."""
        table, config = self._table, self._config
        for row, scores in zip(rows.tolist(), outputs, strict=True):
            question = self._found.setdefault(int(self._question_of[row]), _Question())
            starts, ends = table["char_starts"][row], table["char_ends"][row]
            at = int(table["context_at"][row])
            inside = scores[at : at + len(starts)]
            none = (float(scores[0].sum()), *scores[0].tolist())
            question.none = none if question.none is None else min(question.none, none)
            spans = question.spans
            for score, first, last in best_spans(inside[:, 0], inside[:, 1], config.n_best, config.max_answer_length):
                place = int(starts[first]), int(ends[last])
                known = spans.get(place)
                if place[1] > place[0] and (known is None or score > known.score):
                    spans[place] = Span(score, float(inside[first, 0]), float(inside[last, 1]), *place)
            question.spans = {(span.start, span.end): span for span in _best(spans.values())[: config.n_best]}

    def measures(self) -> dict[str, float]:
        answered, unanswered, chosen, odds, has_answer = [], [], [], [], []
        may_be_none = self._config.no_answer
        for number, question in sorted(self._found.items()):
            truths, text = self._about(number)["answers"], self._text(number, question)
            answered.append(compare(text, truths, may_be_none=may_be_none))
            unanswered.append(compare("", truths, may_be_none=may_be_none))
            odds.append(self._odds(question))
            chosen.append(unanswered[-1] if self._says_none(question) else answered[-1])
            has_answer.append(bool(truths))
        scores, known, there = np.array(chosen).reshape(-1, 2), np.array(has_answer), np.array(odds)
        measures = {"exact_match": _mean(scores[:, 0]), "f1": _mean(scores[:, 1])}
        if not may_be_none or not len(scores):
            return measures
        gains, losses = np.array(answered), np.array(unanswered)
        return {
            **measures,
            "has_answer_exact_match": _mean(scores[known, 0]),
            "has_answer_f1": _mean(scores[known, 1]),
            "no_answer_accuracy": _mean(scores[~known, 0]),
            "best_exact_match": best_share(gains[:, 0], losses[:, 0], there),
            "best_f1": best_share(gains[:, 1], losses[:, 1], there),
        }

    def predictions(self) -> dict[str, Any]:
        """Gives the files of SQuAD's scripts: `predictions.json`, `nbest_predictions.json` and, where there may be no answer,
        `null_odds.json`. Of questions with the same id those after the first have their number behind it."""
        texts, lists, odds = {}, {}, {}
        names = self._names()
        for number, question in sorted(self._found.items()):
            name = names[number]
            texts[name] = "" if self._says_none(question) else self._text(number, question)
            lists[name] = self._listed(number, question)
            odds[name] = self._odds(question)
        files = {"predictions.json": texts, "nbest_predictions.json": lists}
        return {**files, "null_odds.json": odds} if self._config.no_answer else files

    def _names(self) -> dict[int, str]:
        """Names the questions: by their ids, or their numbers where they have none, none like another."""
        ids = {number: self._about(number)["id"] for number in sorted(self._found)}
        names: dict[str, int] = {}
        for number, one in sorted(ids.items(), key=lambda item: item[1] is None):
            name = str(number) if one is None else one
            while name in names:
                name = f"{name}#{number}"
            names[name] = number
        return {number: name for name, number in names.items()}

    def _about(self, question: int) -> dict[str, Any]:
        return json.loads(self._table["about"][self._first_windows[question]].tobytes())

    def _text(self, number: int, question: _Question) -> str:
        spans = _best(question.spans.values())
        return self._about(number)["context"][spans[0].start : spans[0].end] if spans else ""

    def _odds(self, question: _Question) -> float:
        assert question.none is not None
        spans = _best(question.spans.values())
        return question.none[0] - spans[0].score if spans else math.inf

    def _says_none(self, question: _Question) -> bool:
        return self._config.no_answer and self._odds(question) > self._config.no_answer_threshold

    def _listed(self, number: int, question: _Question) -> list[dict[str, Any]]:
        context, spans = self._about(number)["context"], _best(question.spans.values())
        if self._config.no_answer and question.none is not None:
            spans = _best([*spans, Span(*question.none, 0, 0)])
        scores = np.array([span.score for span in spans])
        shares = np.exp(scores - scores.max()) if len(scores) else scores
        return [
            {
                "text": context[span.start : span.end],
                "probability": share,
                "start_logit": span.start_logit,
                "end_logit": span.end_logit,
            }
            for span, share in zip(spans, (shares / shares.sum()).tolist(), strict=True)
        ]


def _best(spans: Any) -> list[Span]:
    """Spans, best first; of equal ones the first in the text."""
    return sorted(spans, key=lambda span: (-span.score, span.start, span.end))


def _mean(values: NDArray[np.float64] | Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
