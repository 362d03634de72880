"""Declares tagging: a label for each word of a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from dist_plm.spec.objectives.base import Head
from dist_plm.spec.tasks.base import Column, LabelsConfig


@dataclass(frozen=True, kw_only=True)
class TagConfig(LabelsConfig):
    """The first token of each word is labelled. Entities are counted as CoNLL's script does (`f1`, …) and, as labels of
    `scheme`, strictly (`strict_f1`, …): an entity whose labels break the scheme is none."""

    body: ClassVar[str] = "tasks.tag"
    loss_terms: ClassVar[tuple[str, ...]] = ("tag",)
    head: ClassVar[Head] = "tokens"
    columns: ClassVar[Mapping[str, Column]] = {
        "tokens": Column(("tokens", "words", "sentence")),
        "tags": Column(("tags", "ner_tags", "pos_tags", "labels", "ner")),
    }
    scoring: ClassVar[tuple[str, ...]] = ("words", "num_words")
    answer: ClassVar[str] = "tags"
    measures: ClassVar[tuple[str, ...]] = (
        "f1",
        "precision",
        "recall",
        "strict_f1",
        "strict_precision",
        "strict_recall",
        "accuracy",
    )
    takes_changed_words: ClassVar[bool] = True

    name: Literal["tag"] = "tag"
    scheme: Literal["IOB2", "IOBES"] = "IOB2"


def are_entities(labels: Sequence[str]) -> bool:
    """Whether a set of labels is of entities, rather than of parts of speech."""
    return any(label[:2] in ("B-", "S-", "U-", "W-") for label in labels) and all(
        label == "O" or label[1:2] == "-" for label in labels
    )
