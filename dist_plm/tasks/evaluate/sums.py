"""Adds up what a model says of texts, and makes the measures of it that the field knows."""

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from dist_plm.core.errors import DataError
from dist_plm.tasks.evaluate.passages import Passage

#: Among what is told of a set, how much there is of it.
COUNTS = ("tokens", "words", "bytes", "documents", "rows", "train_rows", "samples")


@dataclass(slots=True)
class Sums:
    """Holds sums over texts; losses are in nats. `num_bytes` and `num_words` are None once a text came without them."""

    loss: float = 0.0
    tokens: int = 0
    hits: int = 0
    documents: int = 0
    num_bytes: int | None = 0
    num_words: int | None = 0

    def add(self, other: "Sums") -> None:
        self.loss += other.loss
        self.tokens += other.tokens
        self.hits += other.hits
        self.documents += other.documents
        self.num_bytes = _sum(self.num_bytes, other.num_bytes)
        self.num_words = _sum(self.num_words, other.num_words)

    @classmethod
    def of_text(cls, passage: Passage) -> "Sums":
        """Counts a text of which nothing is predicted yet."""
        return cls(documents=1, num_bytes=passage.num_bytes, num_words=passage.num_words)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


@dataclass(frozen=True, slots=True, order=True)
class Hard:
    """Holds what the model finds of one text; the hardest sorts last. Equal ones sort by their numbers."""

    loss: float  # a token
    number: int
    name: str = field(compare=False)
    tokens: int = field(compare=False)
    beginning: str = field(compare=False)


class Hardest:
    """Keeps the `count` texts with the largest loss a token."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[Hard] = []

    def add(self, one: Hard) -> None:
        if len(self._heap) < self._count:
            heapq.heappush(self._heap, one)
        elif self._count:
            heapq.heappushpop(self._heap, one)

    def sorted(self) -> list[Hard]:
        """Lists them, the hardest first."""
        return sorted(self._heap, reverse=True)


def measures(sums: Sums, *, pseudo: bool) -> dict[str, float | int]:
    """Names of the measures and their values; word_perplexity, byte_perplexity and bits_per_byte are those of
    lm-evaluation-harness. Counts come last.

    Args:
        pseudo: the losses are those of tokens that were masked one by one, whose sum is no likelihood of the text.
    """
    prefix = "pseudo_" if pseudo else ""
    told: dict[str, float | int] = {
        "loss": sums.loss / max(sums.tokens, 1),
        f"{prefix}perplexity": _exp(sums.loss / max(sums.tokens, 1)),
        "accuracy": sums.hits / max(sums.tokens, 1),
    }
    if sums.num_words:
        told[f"{prefix}word_perplexity"] = _exp(sums.loss / sums.num_words)
    if sums.num_bytes:
        told[f"{prefix}byte_perplexity"] = _exp(sums.loss / sums.num_bytes)
        told[f"{prefix}bits_per_byte"] = sums.loss / sums.num_bytes / math.log(2)
    counts = {"tokens": sums.tokens, "words": sums.num_words, "bytes": sums.num_bytes, "documents": sums.documents}
    return told | {name: count for name, count in counts.items() if count}


def check_numbers(results: Mapping[str, float], model: str, data: str) -> None:
    """Raises DataError where what was measured is no number: nobody is to take that for a result."""
    if broken := [name for name, value in results.items() if math.isnan(value)]:
        raise DataError(
            f"{', '.join(broken)} of {model} on {data} {'are' if len(broken) > 1 else 'is'} nan: its weights are finite, so "
            "numbers of its layers overflow; try precision=fp32, or a checkpoint from before its run diverged"
        )


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))  # beyond, a float overflows
