"""Multiple choice: each choice is a pair with its context, and one of them is right (Devlin et al. 2019, section 4.4)."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError, count_of
from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.data.sources.written_lists import looks_named, scalars_in, values_in
from dist_plm.objectives.base import IGNORED, LossTerm
from dist_plm.objectives.corruption.changeable_words import Changeable, WordTable, words_of_texts
from dist_plm.objectives.tasks.base import (
    CUT,
    Columns,
    Scorer,
    TextEncoder,
    by_row,
    label_of,
    lost_tokens,
    soft_targets,
    text_of,
    value_of,
    written,
)
from dist_plm.objectives.tasks.encode_rows import refuse_choices
from dist_plm.objectives.tasks.likely_texts import FILLS, continued
from dist_plm.spec.tasks.choice import ChoiceConfig

#: What SuperGLUE's COPA asks for with a word (Roemmele et al. 2011).
_ASKED = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
#: Where a choice goes in a question that has a gap: RACE writes `_`, at times at the end of a word ("works as a_."), others
#: `____`. In `max_len` and `__init__` it is part of a name.
_GAP = re.compile(r"_{3,}|(?<!\w)(?![^\W_]+_+[^\W_])([^\W_]*)_+([^\W_]*)(?!\w)", re.ASCII)
_LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True)
class Choice:
    """See tasks.base.Task. The choices of a row follow each other in `tokens` and `segments`, or in what a decoder beside an
    encoder writes."""

    config: ChoiceConfig
    fills: Mapping[str, int] = field(default_factory=lambda: dict(FILLS))

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {"choice": LossTerm(1.0, "choice_labels")}

    def labels(self, rows: Iterable[LabelledRow], columns: Mapping[str, str]) -> set[str]:
        return set()

    def encode(self, rows: Sequence[LabelledRow], columns: Mapping[str, str], encoder: TextEncoder) -> Columns:
        first, second, labels = [], [], []
        count = len(self._choices(rows[0], columns)[0])
        for row in rows:
            choices, names = self._choices(row, columns)
            if len(choices) != count:
                refuse_choices(row.place, len(choices), f"other rows have {count}")
            contexts, endings = _pairs(row, columns, choices)
            first += contexts
            second += endings
            labels.append(self._label(row, columns["label"], names, count) if "label" in columns else 0)
        table = self._as_texts(rows, first, second, encoder) if encoder.by_likelihood else encoder.texts(first, second)
        return {**table, "choice_labels": np.array(labels, dtype=np.int64)}

    def _as_texts(
        self, rows: Sequence[LabelledRow], first: list[str], second: list[str], encoder: TextEncoder
    ) -> Columns:
        """Columns of choices that are texts, behind their contexts, as many of them for each row."""
        count, beside = len(first) // len(rows), encoder.has_decoder
        most = self.config.longest_answer(encoder.length, has_decoder=beside)
        room = most - beside  # a decoder beside an encoder writes the token that ends texts as well
        texts = encoder.pieces([("" if beside else encoder.space) + text for text in second])
        lost = lost_tokens(texts, room).reshape(-1, count)
        for number in np.flatnonzero(lost.any(axis=1)).tolist():
            _refuse_same(texts[number * count : (number + 1) * count], room, rows[number].place)
        if beside:
            table = written(encoder.sources(first[::count]), texts, most, encoder)
        else:
            table = continued(encoder.pieces(first), texts, most, encoder)
        return {**table, CUT: lost.sum(axis=1)}

    def soft(self, table: Mapping[str, Any]) -> Mapping[str, NDArray[np.float32]]:
        # An encoder reads a row once, whatever its decoder says of it.
        count = max(map(len, table.values())) // len(table["choice_labels"])
        matrix = soft_targets(count, self.config.label_smoothing)
        return {} if matrix is None else {"choice_labels": matrix}

    def changeable(self, table: WordTable, encoder: TextEncoder) -> Callable[[Mapping[str, NDArray[Any]]], Changeable]:
        """Finds the words of contexts, alike before all choices of a row: a choice without its word may be none."""
        by_decoder = encoder.by_likelihood and not encoder.has_decoder
        return partial(_changeable, table=table, by_head=not encoder.by_likelihood, by_decoder=by_decoder)

    def scorer(self, table: Mapping[str, Any]) -> Scorer:
        truth = table["choice_labels"]
        return _ChoiceScorer(truth, np.full(len(truth), IGNORED, np.int32))

    def _choices(self, row: LabelledRow, columns: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """The choices of a row, and their names where they have some."""
        if "choices" not in columns:
            found = self._numbered(row)
            return [text_of(row, name) for name in found], []
        where = f"{row.place}: column {columns['choices']!r}"
        value, names = value_of(row, columns["choices"]), []
        value = values_in(value, where) if looks_named(value) else scalars_in(value, where)
        if isinstance(value, Mapping):  # as AI2's question sets are published
            value, names = value.get("text"), list(map(str, value.get("label") or ()))
        if not isinstance(value, list | tuple) or len(value) < 2 or not all(isinstance(one, str) for one in value):
            raise DataError(f"{where} holds no list of two or more texts: mend or remove the row")
        if not all(one.strip() for one in value):
            raise DataError(f"{where} holds a choice without text: mend or remove the row")
        if names and len(names) != len(value):
            raise DataError(
                f"{where} holds {count_of(len(value), 'choice')} and {count_of(len(names), 'label')} of them: mend "
                "or remove the row"
            )
        return list(value), names

    def _numbered(self, row: LabelledRow) -> list[str]:
        """Columns of one choice each: those of the first name that has two or more, in the order of their numbers."""
        for prefix in self.config.numbered:
            numbered = re.compile(rf"{prefix}[ _]?(\d{{1,3}}|[A-Ja-j])")
            found = {name: match[1] for name in row.values if (match := numbered.fullmatch(name))}
            if len(found) > 1:
                return sorted(found, key=lambda name: (found[name].zfill(3), name))
        raise DataError(
            f"{row.place}: no column holds choices: give a list in data.columns.choices=NAME, or texts in "
            f"{self.config.numbered[0]}0, {self.config.numbered[0]}1, …"
        )

    def _label(self, row: LabelledRow, column: str, names: Sequence[str], count: int) -> int:
        label = label_of(row, column)
        if label in names:
            return names.index(label)
        if not names and label.isdecimal() and 0 <= int(label) - self.config.first_choice < count:
            return int(label) - self.config.first_choice
        if not names and len(label) == 1 and label.upper() in _LETTERS[:count]:
            return _LETTERS.index(label.upper())
        known = ", ".join(names) or f"{self.config.first_choice} to {self.config.first_choice + count - 1}, or A, B, …"
        raise DataError(
            f"{row.place}: column {column!r} holds {label!r}, which is none of the {count} choices ({known}): mend the row"
            + ("" if names or self.config.first_choice else ", or set task.first_choice=1")
        )


def _refuse_same(choices: Sequence[Sequence[int]], room: int, place: str) -> None:
    """Raises DataError where choices can be told apart by what is beyond `room` tokens alone."""
    if len({tuple(ids[:room]) for ids in choices}) < len({*map(tuple, choices)}):
        raise DataError(
            f"{place}: choices are the same in their first {room} tokens, and the rest is beyond task.max_target_length: raise "
            "it, or remove the row"
        )


def _changeable(batch: Mapping[str, NDArray[Any]], *, table: WordTable, by_head: bool, by_decoder: bool) -> Changeable:
    """Finds the words before the choices, which `by_head` are the second texts of pairs; those that a decoder alone reads
    (`by_decoder`) go on from them, and an encoder reads none."""
    each = len(batch["tokens"]) // len(batch["choice_labels"])
    before: NDArray[np.bool_] | bool = True
    if by_head:
        before = batch["segments"] == 0
    elif by_decoder:
        # The last token of a context predicts the first one of the choice.
        ends = (batch["labels"] != IGNORED).argmax(axis=1) + 1
        before = np.arange(batch["tokens"].shape[1]) < ends[:, None]
    words = words_of_texts(batch, table, before)
    if by_decoder:
        words = replace(words, beside={"labels": IGNORED})
    return replace(words, samples=words.samples // each)


def _pairs(row: LabelledRow, columns: Mapping[str, str], choices: Sequence[str]) -> tuple[list[str], list[str]]:
    """Gives what stands before each choice, and each with what it goes on from or answers."""
    known = [text_of(row, columns[name]) for name in ("context", "question") if name in columns]
    if not known:
        raise DataError(
            f"{row.place}: nothing stands before the choices: name a column with data.columns.context=NAME or "
            "data.columns.question=NAME"
        )
    if len(known) == 1:
        return known * len(choices), list(choices)
    context, question = known[0], _ASKED.get(known[1], known[1])
    return [context] * len(choices), [_answered(question, choice) for choice in choices]


def _answered(question: str, choice: str) -> str:
    """A question with a choice in its gaps, or behind it where it has none."""
    filled, gaps = _GAP.subn(lambda found: f"{found[1] or ''}{choice}{found[2] or ''}", question)
    return filled if gaps else f"{question} {choice}"


@dataclass(slots=True)
class _ChoiceScorer:
    truth: NDArray[np.int64]
    said: NDArray[np.int32]

    def add(self, rows: NDArray[np.int64], outputs: NDArray[np.float32]) -> None:
        self.said[rows] = outputs.argmax(axis=-1)

    def measures(self) -> dict[str, float]:
        known = self.said != IGNORED
        return {"accuracy": float((self.said == self.truth)[known].mean()) if known.any() else 0.0}

    def predictions(self) -> dict[str, Any]:
        """Gives the number of the choice, from 0, for each row."""
        rows = np.flatnonzero(self.said != IGNORED)
        return by_row("choice", rows.tolist(), self.said[rows].tolist())


def build(config: ChoiceConfig) -> Choice:
    return Choice(config)
