"""Entities in labels of words, as CoNLL's evaluation script finds them and as a scheme defines them.

Equal to seqeval's default and strict modes, which most published numbers of named-entity recognition are of. Labels of BILOU,
BMES and BMEWO are read as those of IOBES that say the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dist_plm.objectives.metrics.classes import f1_of

Scheme = Literal["IOB2", "IOBES"]
_OUTSIDE = ("O", "")
#: Last and unit of BILOU, middle of BMES, word of BMEWO.
_OF_IOBES = {"L": "E", "U": "S", "M": "I", "W": "S"}


class Entity(NamedTuple):
    """Words [start, stop) that are an entity of a kind."""

    kind: str
    start: int
    stop: int


def entities(labels: Sequence[str]) -> Iterator[Entity]:
    """Finds entities as conlleval does: one begins with B or S, after another kind or outside, and goes on while it may."""
    before, begin = _OUTSIDE, 0
    for i, label in enumerate([*labels, "O"]):
        now = _parts(label)
        if _ends(before, now):
            yield Entity(before[1], begin, i)
        if _begins(before, now):
            begin = i
        before = now


def strict_entities(labels: Sequence[str], scheme: Scheme) -> Iterator[Entity]:
    """Finds entities that keep to their scheme: B I … I of one kind, or B I … E and S."""
    parts, i = [_parts(label) for label in labels], 0
    while i < len(parts):
        prefix, kind = parts[i]
        stop = i + 1
        if scheme == "IOBES" and prefix == "S":
            yield Entity(kind, i, stop)
        elif prefix == "B":
            while stop < len(parts) and parts[stop] == ("I", kind):
                stop += 1
            if scheme == "IOB2":
                yield Entity(kind, i, stop)
            elif stop < len(parts) and parts[stop] == ("E", kind):
                stop += 1
                yield Entity(kind, i, stop)
            else:
                stop = i + 1
        i = stop


@dataclass(slots=True)
class EntityCounts:
    """Counts entities that are right, predicted and there."""

    hits: int = 0
    predicted: int = 0
    truth: int = 0

    def add(self, truth: Iterator[Entity], predicted: Iterator[Entity]) -> None:
        """Counts those of one text."""
        there, found = set(truth), set(predicted)
        self.hits += len(there & found)
        self.predicted += len(found)
        self.truth += len(there)

    def measures(self, prefix: str) -> dict[str, float]:
        """Gives F1, precision and recall; 0 where they have nothing to count."""
        return {
            f"{prefix}f1": float(f1_of(self.hits, self.predicted, self.truth)),
            f"{prefix}precision": self.hits / self.predicted if self.predicted else 0.0,
            f"{prefix}recall": self.hits / self.truth if self.truth else 0.0,
        }


def _parts(label: str) -> tuple[str, str]:
    """Prefix, as IOBES has it, and kind of a label; what is outside has neither kind nor effect."""
    if label == "O":
        return _OUTSIDE
    return _OF_IOBES.get(label[:1], label[:1]), label[1:].split("-", 1)[-1] or "_"


def _ends(before: tuple[str, str], now: tuple[str, str]) -> bool:
    prefix, kind = before
    if prefix == "O":
        return False
    return prefix in "ES" or now[0] in "BSO" or kind != now[1]


def _begins(before: tuple[str, str], now: tuple[str, str]) -> bool:
    prefix, kind = now
    if prefix == "O":
        return False
    return prefix in "BS" or before[0] in "ESO" or kind != before[1]
