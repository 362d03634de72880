"""Measures of written text beside what should have been written: BLEU and chrF as sacrebleu's defaults have them, ROUGE as
rouge_score does without a stemmer, and exact matches. Each adds up over texts, so that none of them has to be kept."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dist_plm.objectives.metrics.bleu_words import SPLITTERS

_WORD = re.compile(r"[a-z0-9]+")
#: Unicode's categories of marks that belong to the letter before them: accents, vowel signs, points.
_MARKS = ("Mn", "Mc")


def _grams(tokens: Sequence[Any], size: int) -> Counter[tuple[Any, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(size)), strict=False))


@dataclass(slots=True)
class Bleu:
    """Corpus BLEU (Papineni et al. 2002) of one reference each, up to 4-grams; an order without a match counts as a half, a
    quarter, … of one (sacrebleu: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp).

    Attributes:
        tokenizer: names what splits texts, see bleu_words.SPLITTERS.
    """

    tokenizer: str = "13a"
    written: int = 0
    wanted: int = 0
    hits: list[int] = field(default_factory=lambda: [0] * 4)
    totals: list[int] = field(default_factory=lambda: [0] * 4)

    def add(self, text: str, reference: str) -> None:
        ours, theirs = (SPLITTERS[self.tokenizer](one.rstrip()) for one in (text, reference))
        self.written, self.wanted = self.written + len(ours), self.wanted + len(theirs)
        for order in range(4):
            found = _grams(ours, order + 1)
            self.totals[order] += found.total()
            self.hits[order] += (found & _grams(theirs, order + 1)).total()

    @property
    def signature(self) -> str:
        """Says how it counts, as sacrebleu does."""
        return f"nrefs:1|case:mixed|eff:no|tok:{self.tokenizer}|smooth:exp"

    def score(self) -> float:
        """0 to 100."""
        if not any(self.hits) or not all(self.totals):
            return 0.0
        logs, smoothed = 0.0, 1.0
        for hits, total in zip(self.hits, self.totals, strict=True):
            if hits == 0:
                smoothed *= 2
            logs += math.log((hits or 1 / smoothed) / total)
        return 100.0 * min(1.0, math.exp(1 - self.wanted / self.written)) * math.exp(logs / 4)


@dataclass(slots=True)
class ChrF:
    """Corpus chrF2 (Popović 2015): the F-score of 1- to 6-grams of characters without white space, recall weighed twice."""

    counts: list[list[int]] = field(default_factory=lambda: [[0, 0, 0] for _ in range(6)])
    #: How it counts, as sacrebleu says it.
    signature: ClassVar[str] = "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no"

    def add(self, text: str, reference: str) -> None:
        ours, theirs = ("".join(one.split()) for one in (text, reference))
        for order, counts in enumerate(self.counts, 1):
            found, wanted = _grams(ours, order), _grams(theirs, order)
            if not wanted:  # sacrebleu counts none where the reference is too short to have any
                break
            for place, more in enumerate((found & wanted, found, wanted)):
                counts[place] += more.total()

    def score(self) -> float:
        """0 to 100."""
        orders = [(hits / found, hits / wanted) for hits, found, wanted in self.counts if found and wanted]
        if not orders:
            return 0.0
        precision, recall = (sum(side) / len(orders) for side in zip(*orders, strict=True))
        return 500.0 * precision * recall / (4 * precision + recall) if precision + recall else 0.0


@dataclass(slots=True)
class Rouge:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), as means over texts. Words are runs of letters and digits in lower case,
    of any script, with their marks."""

    texts: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * 3)

    def add(self, text: str, reference: str) -> None:
        ours, theirs = _words_of(text.lower()), _words_of(reference.lower())
        self.texts += 1
        for order in (1, 2):
            found, wanted = _grams(ours, order), _grams(theirs, order)
            self.sums[order - 1] += _f1((found & wanted).total(), found.total(), wanted.total())
        self.sums[2] += _f1(longest_common(ours, theirs), len(ours), len(theirs))

    def scores(self) -> dict[str, float]:
        """By name, 0 to 100."""
        names = ("rouge1", "rouge2", "rougeL")
        return {name: 100.0 * total / max(self.texts, 1) for name, total in zip(names, self.sums, strict=True)}


def _words_of(text: str) -> list[str]:
    if text.isascii():
        return _WORD.findall(text)
    inside, kept = False, ""
    for character in text:
        inside = character.isalnum() or (inside and unicodedata.category(character) in _MARKS)
        kept += character if inside else " "
    return kept.split()


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest sequence that is in both, with gaps."""
    row = [0] * (len(b) + 1)
    for one in a:
        before = row
        row = [0]
        for place, other in enumerate(b):
            row.append(before[place] + 1 if one == other else max(row[-1], before[place + 1]))
    return row[-1]


def _f1(hits: int, found: int, wanted: int) -> float:
    return 2 * hits / (found + wanted) if hits else 0.0


@dataclass(slots=True)
class TextScores:
    """Adds up all of them."""

    bleu: Bleu = field(default_factory=Bleu)
    chrf: ChrF = field(default_factory=ChrF)
    rouge: Rouge = field(default_factory=Rouge)
    exact: int = 0

    @classmethod
    def split_by(cls, tokenizer: str) -> "TextScores":
        """Builds it with the tokenizer of BLEU."""
        return cls(Bleu(tokenizer))

    @property
    def signatures(self) -> dict[str, str]:
        """Says how BLEU and chrF count, as sacrebleu does."""
        return {"bleu": self.bleu.signature, "chrf": self.chrf.signature}

    def add(self, text: str, reference: str) -> None:
        for one in (self.bleu, self.chrf, self.rouge):
            one.add(text, reference)
        self.exact += " ".join(text.split()) == " ".join(reference.split())

    def measures(self) -> dict[str, float]:
        """By name; `exact_match` is the share of texts that equal their references but for white space, in per cent."""
        exact = 100.0 * self.exact / max(self.rouge.texts, 1)
        return {
            **self.rouge.scores(),
            "bleu": self.bleu.score(),
            "chrf": self.chrf.score(),
            "exact_match": exact,
        }
