"""Declares tagging: a label for each word of a text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dist_plm.spec.objectives.base import Head
from dist_plm.spec.rules.sections import no_effect
from dist_plm.spec.tasks.base import Column, LabelsConfig

if TYPE_CHECKING:
    from dist_plm.spec.derived import Case

#: What labels begin with that begin an entity, and that go on with one, in IOB, IOBES, BILOU, BMES and BMEWO.
_BEGIN, _GO_ON = ("B", "S", "U", "W"), ("I", "E", "L", "M")


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

    @property
    def measured(self) -> tuple[str, ...]:
        if self.finds_labels:  # until the data tell them
            return super().measured
        if not self.has_entities:
            return ("loss", "accuracy")
        strict = self.has_beginnings
        return tuple(name for name in super().measured if strict or not name.startswith("strict_"))

    @property
    def told_of_measures(self) -> str:
        if self.finds_labels or "strict_f1" in self.measured:
            return ""
        return ", whose labels begin no entities" if self.has_entities else ", whose labels are of no entities"

    def problems(self, case: "Case") -> Iterator[str]:
        yield from super().problems(case)
        if not self.finds_labels and "strict_f1" not in self.measured:
            yield from no_effect(self, "task", ("scheme",), "labels that begin no entities")

    @property
    def has_entities(self) -> bool:
        return are_entities(self.labels)

    @property
    def has_beginnings(self) -> bool:
        """Whether some label begins an entity, as a scheme asks for; those of IO do not."""
        return any(map(begins_entity, self.labels))


def are_entities(labels: Sequence[str]) -> bool:
    """Whether a set of labels is of entities, rather than of parts of speech."""
    return any(map(_prefix, labels)) and all(
        label == "O" or label[1:2] == "-" or _prefix(label) != "" for label in labels
    )


def begins_entity(label: str) -> bool:
    """Whether a label begins an entity whatever stands before it; others of entities go on with one where it is of their
    kind."""
    return _prefix(label) in _BEGIN


def _prefix(label: str) -> str:
    """Gives what a label says of an entity, of whatever kind; nothing of others."""
    return label[:1] if label[1:2] in ("", "-") and label[:1] in (*_BEGIN, *_GO_ON) else ""
