"""Tagging: a label for each word, learned at its first token (Devlin et al. 2019, section 5.3)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.errors import DataError, count_of
from dist_plm.core.parsing import is_infinite_or_nan
from dist_plm.data.labelled.rows import LabelledRow
from dist_plm.data.sources.written_lists import looks_listed, looks_quoted, scalars_in
from dist_plm.objectives.base import IGNORED, LossTerm
from dist_plm.objectives.corruption.changeable_words import Changeable, WordTable
from dist_plm.objectives.metrics.classes import Confusion
from dist_plm.objectives.metrics.entities import EntityCounts, entities, strict_entities
from dist_plm.objectives.tasks.base import (
    CUT,
    Columns,
    Scorer,
    TextEncoder,
    by_row,
    label_text,
    label_weights,
    number_of,
    soft_targets,
    value_of,
)
from dist_plm.spec.tasks.tag import TagConfig, begins_entity


@dataclass(frozen=True, slots=True)
class Tag:
    """See tasks.base.Task."""

    config: TagConfig
    fills: Mapping[str, int] = field(default_factory=lambda: {"tags": IGNORED})

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        return {"tag": LossTerm(1.0, "tags")}

    def labels(self, rows: Iterable[LabelledRow], columns: Mapping[str, str]) -> set[str]:
        return {label for row in rows for label in _words_and_tags(row, columns)[1]}

    def encode(self, rows: Sequence[LabelledRow], columns: Mapping[str, str], encoder: TextEncoder) -> Columns:
        numbers = {label: number for number, label in enumerate(self.config.labels)}
        words, labels = [], []
        for row in rows:
            found, tags = _words_and_tags(row, columns, self.config.labels[0])
            words.append(found)
            labels.append(np.array([number_of(tag, numbers, row.place) for tag in tags], dtype=np.int64))
        tokens, starts = encoder.words(words)
        at = starts.values  # of each token the number of the word that it begins, or -1
        of_row = np.repeat(np.arange(len(rows)), starts.lengths)
        before = np.cumsum([0, *(len(row) for row in labels)])[:-1]
        flat = np.concatenate(labels)
        tags = np.where(at >= 0, flat[np.minimum(before[of_row] + np.maximum(at, 0), len(flat) - 1)], IGNORED)
        last = np.maximum.reduceat(at, starts.ends - starts.lengths)  # words without tokens may follow it
        num_words = np.array([len(row) for row in labels], dtype=np.int64)
        lost = np.where(starts.lengths == encoder.length, num_words - 1 - last, 0)
        read = type(starts)(tags.astype(np.int32), starts.ends)
        return {"tokens": tokens, "tags": read, "words": starts, "num_words": num_words, CUT: lost}

    def soft(self, table: Mapping[str, Any]) -> Mapping[str, NDArray[np.float32]]:
        weights = label_weights(self.config, table["tags"].values)
        matrix = soft_targets(len(self.config.labels), self.config.label_smoothing, weights)
        return {} if matrix is None else {"tags": matrix}

    def changeable(self, table: WordTable, encoder: TextEncoder) -> Callable[[Mapping[str, NDArray[Any]]], Changeable]:
        """Finds words as rows have them, each with its label. They change places with words of the same label, and those of
        entities are never left out, nor what keeps two apart: no entity begins, ends or becomes another for it (see Dai & Adel
        2020, arXiv 2010.11683, section 3, for changes that keep entities)."""
        labels, has_entities = self.config.labels, self.config.has_entities
        inside = np.array([has_entities and label != "O" for label in labels])
        joins = inside & ~np.array([begins_entity(label) for label in labels])
        return partial(_changeable, inside=inside, joins=joins, has_frame=encoder.has_frame)

    def scorer(self, table: Mapping[str, Any]) -> Scorer:
        confusion = Confusion.of(len(self.config.labels))
        return _TagScorer(table["tags"], table["words"], table["num_words"], self.config, confusion)


def _changeable(
    batch: Mapping[str, NDArray[Any]], *, inside: NDArray[np.bool_], joins: NDArray[np.bool_], has_frame: bool
) -> Changeable:
    """Finds the words of a microbatch, of which those stay whose label is `inside` an entity, or that stand before one whose
    label `joins` what came before."""
    tags, places = batch["tags"], np.arange(batch["tokens"].shape[1])
    begins = tags != IGNORED
    text = (np.cumsum(begins, axis=1) > 0) & (places < batch["lengths"][:, None] - has_frame)
    beside = {"tags": IGNORED, **({"tags_soft": 0} if "tags_soft" in batch else {})}
    kept = begins & inside[np.where(begins, tags, 0)]
    rows, starts = np.nonzero(begins)
    before = (rows[:-1] == rows[1:]) & joins[tags[rows[1:], starts[1:]]]
    kept[rows[:-1][before], starts[:-1][before]] = True
    return Changeable(begins, text, np.zeros_like(tags), tags, kept, batch["samples"], beside)


def _words_and_tags(row: LabelledRow, columns: Mapping[str, str], unknown: str = "") -> tuple[list[str], list[str]]:
    """The words of a row and their labels, which are `unknown` where no column has them; raises DataError where it has other
    things, or not as many of each."""
    beside = value_of(row, columns["tags"]) if "tags" in columns else None
    # A sentence may be in brackets: the labels beside it tell whether it is a list.
    written = looks_listed(beside) or (not isinstance(beside, str) and looks_quoted(value_of(row, columns["tokens"])))
    words = list(map(str, _listed(row, columns["tokens"], "tokens", in_brackets=written)))
    tags = [unknown] * len(words)
    if "tags" in columns:
        where = f"{row.place}: column {columns['tags']!r}"
        tags = [label_text(tag, where) for tag in _listed(row, columns["tags"], "tags", in_brackets=True)]
    if len(words) != len(tags):
        raise DataError(
            f"{row.place}: {count_of(len(words), 'word')} in {columns['tokens']!r} and "
            f"{count_of(len(tags), 'label')} in {columns['tags']!r}: each "
            "word needs one"
        )
    return words, tags


def _listed(row: LabelledRow, column: str, what: str, *, in_brackets: bool) -> Sequence[Any]:
    """The list in a column, or what white space parts in its text, unless this is a list `in_brackets`."""
    value = value_of(row, column)
    value = scalars_in(value, f"{row.place}: column {column!r}") if in_brackets else value
    value = value.split() if isinstance(value, str) else value
    if not isinstance(value, list | tuple) or not value or not all(map(_may_stand, value)):
        raise DataError(f"{row.place}: column {column!r} holds no list of {what}: mend or remove the row")
    return value


def _may_stand(one: Any) -> bool:
    return isinstance(one, str | int | float) and not is_infinite_or_nan(one)


@dataclass(slots=True)
class _TagScorer:
    truth: Any
    #: By row, of each token the number of the word that it begins, or -1.
    words: Any
    #: By row.
    num_words: NDArray[np.int64]
    config: TagConfig
    confusion: Confusion
    loose: EntityCounts = field(default_factory=EntityCounts)
    strict: EntityCounts = field(default_factory=EntityCounts)
    #: By row, of each word; -1 of those that have no token, or whose first one was not read.
    said: dict[int, NDArray[np.int32]] = field(default_factory=dict)

    def add(self, rows: NDArray[np.int64], outputs: NDArray[np.float32]) -> None:
        names, scheme = self.config.labels, self.config.scheme
        found = outputs.argmax(axis=-1)
        for i, row in enumerate(rows.tolist()):
            truth = self.truth[row]
            at = np.flatnonzero(truth != IGNORED)
            numbers, predicted = truth[at].astype(np.int64), found[i, at]
            self.confusion.add(numbers, predicted)
            words = self.words[row][at]
            self.said[row] = np.full(self.num_words[row], -1, np.int32)
            self.said[row][words] = predicted
            there, said = [names[n] for n in numbers], [names[n] for n in predicted]
            self.loose.add(entities(there), entities(said))
            self.strict.add(strict_entities(there, scheme), strict_entities(said, scheme))

    def predictions(self) -> dict[str, Any]:
        names, rows = dict(enumerate(self.config.labels)), sorted(self.said)
        return by_row("tags", rows, ([names.get(n) for n in self.said[row].tolist()] for row in rows))

    def measures(self) -> dict[str, float]:
        accuracy = {"accuracy": self.confusion.accuracy}
        if not self.config.has_entities:
            return accuracy
        strict = self.strict.measures("strict_") if self.config.has_beginnings else {}
        return {**self.loose.measures(""), **strict, **accuracy}


def build(config: TagConfig) -> Tag:
    return Tag(config)
