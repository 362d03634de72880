"""Pairs of segments as BERT cuts them from documents (Devlin et al. 2019, section 3.1 and appendix A.2, and
`create_instances_from_document` of their code) and ALBERT (Lan et al. 2020, section 3.1), for all rows at once.

A sample's first run of sentences is cut at a sentence boundary; what follows the cut is the second segment, unless
the sample is a negative: then it comes from the second run (next-sentence prediction), or the two change places
(sentence-order prediction). Where BERT gives the sentences after the cut back to the next sample, here they wait for
another epoch, whose cut is another one: a sample does not depend on those before it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dist_plm.core.randomness import random_numbers as rng
from dist_plm.core.randomness.random_numbers import Purpose
from dist_plm.data.samples import Pairs, Sentences
from dist_plm.data.special_tokens import SpecialTokens
from dist_plm.objectives.base import IGNORED

Ints = NDArray[np.int64]

#: `[CLS] first [SEP] second [SEP]`
NUM_FRAME = 3


@dataclass(frozen=True, slots=True)
class Segments:
    """B pieces of one array of tokens: piece b has tokens start[b], …, start[b] + length[b] - 1. Both [B]."""

    start: Ints
    length: Ints

    def where(self, condition: NDArray[np.bool_], other: "Segments") -> "Segments":
        """These pieces where `condition` [B] holds, the others elsewhere."""
        return Segments(np.where(condition, self.start, other.start), np.where(condition, self.length, other.length))


@dataclass(frozen=True, slots=True)
class PairCutter:
    """Attributes:
    kind: of the negatives, `nsp` or `sop`.
    max_tokens: of both segments together.
    negative_rate: share of negatives. Next-sentence prediction has more, as BERT does: one sentence that stands
        alone has no next.
    short_rate: share of pairs that are cut from fewer tokens, uniformly from 2 to `max_tokens`.
    """

    seed: int
    kind: Literal["nsp", "sop"]
    max_tokens: int
    negative_rate: float
    short_rate: float

    def __call__(self, pairs: Pairs) -> tuple[Segments, Segments, Ints]:
        """The two segments of each sample, as pieces of the tokens of `pairs.first` followed by those of
        `pairs.second`, and labels [B]: 1 for negatives, 0 for others.

        A pair for sentence-order prediction whose text is one sentence has an empty second segment, and no label.
        """
        runs = Runs.of(pairs.first)
        target = self._target_length(pairs.samples)
        used = runs.sentences_for(target)
        cut = 1 + rng.below(rng.single(self.seed, pairs.samples, Purpose.SPLIT), np.maximum(used - 1, 1))
        middle, stop = runs.ends_after(cut), runs.ends_after(used)
        first, second = Segments(runs.start, middle - runs.start), Segments(middle, stop - middle)
        negative = rng.uniform(rng.single(self.seed, pairs.samples, Purpose.NEGATIVE)) < self.negative_rate
        alone = used == 1
        if self.kind == "nsp":
            assert pairs.second is not None, "next-sentence prediction needs the second runs"
            negative |= alone
            elsewhere = Runs.of(pairs.second).holding(target - first.length, offset=len(pairs.first.tokens))
            second = elsewhere.where(negative, second)
            labels = negative.astype(np.int64)
        else:
            negative &= ~alone
            first, second = second.where(negative, first), first.where(negative, second)
            labels = np.where(alone, IGNORED, negative)
        return *self._truncate(first, second, pairs.samples), labels

    def _target_length(self, samples: Ints) -> Ints:
        is_short, length = rng.grid(rng.keys(self.seed, samples, Purpose.TARGET_LENGTH), 2).T
        short = 2 + rng.below(length, max(self.max_tokens - 1, 1))
        return np.where(rng.uniform(is_short) < self.short_rate, short, self.max_tokens)

    def _truncate(self, first: Segments, second: Segments, samples: Ints) -> tuple[Segments, Segments]:
        """Cuts tokens off the longer segment, the second when they are equal, one by one until the pair fits; each off
        the front or the back, at random (`truncate_seq_pair` of BERT's code)."""
        lengths = truncated_lengths(first.length, second.length, self.max_tokens)
        segments = []
        for segment, length, purpose in zip(
            (first, second), lengths, (Purpose.CUT_FIRST, Purpose.CUT_SECOND), strict=True
        ):
            front = rng.half_binomial(rng.keys(self.seed, samples, purpose), segment.length - length)
            segments.append(Segments(segment.start + front, length))
        return segments[0], segments[1]


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of sentences with the sums that cutting them needs.

    Attributes:
        start: [B], where in the tokens each run begins.
        before: [M], tokens of its run before each sentence.
    """

    sentences: Sentences
    start: Ints
    before: Ints

    @classmethod
    def of(cls, sentences: Sentences) -> "Runs":
        begins = np.concatenate([[0], sentences.ends[:-1]])
        counts = np.diff(sentences.runs)
        assert counts.min(initial=1) > 0, "a run has no sentence"
        start = begins[sentences.runs[:-1]]
        return cls(sentences, start, begins - np.repeat(start, counts))

    def sentences_for(self, wanted: Ints) -> Ints:
        """How many sentences of each run it takes to hold `wanted` [B] tokens: one at least, all where they are few."""
        runs = self.sentences.runs
        short_before = self.before < np.repeat(wanted, np.diff(runs))
        return np.maximum(np.add.reduceat(short_before, runs[:-1], dtype=np.int64), 1)

    def ends_after(self, count: Ints) -> Ints:
        """Where in the tokens the `count` [B]-th sentence of each run ends."""
        return self.sentences.ends[self.sentences.runs[:-1] + count - 1]

    def holding(self, wanted: Ints, *, offset: int) -> Segments:
        """The least sentences of each run that hold `wanted` [B] tokens, counted from `offset` tokens before."""
        return Segments(self.start + offset, self.ends_after(self.sentences_for(wanted)) - self.start)


def truncated_lengths(first: Ints, second: Ints, max_tokens: int) -> tuple[Ints, Ints]:
    """Lengths that remain when tokens are cut off the longer one, the second when they are equal, until both together
    are at most `max_tokens`."""
    excess = np.maximum(first + second - max_tokens, 0)
    off_first = np.minimum(excess, np.maximum(first - second, 0))
    off_second = np.minimum(excess, np.maximum(second - first, 0))
    rest = excess - off_first - off_second
    return first - off_first - rest // 2, second - off_second - (rest + 1) // 2


def assemble(
    tokens: Ints, first: Segments, second: Segments, special: SpecialTokens, sequence_length: int
) -> tuple[Ints, Ints, Ints]:
    """`[CLS] first [SEP] second [SEP] [PAD] …`, or `[CLS] first [SEP] [PAD] …` where the second is empty.

    Returns:
        Tokens [B, S]; segment ids [B, S], 1 from the second segment to its [SEP] and 0 elsewhere; lengths [B] without
        the padding.
    """
    assert special.cls is not None
    assert special.sep is not None
    assert special.pad is not None
    column, rows = np.arange(sequence_length), np.arange(len(first.length))
    end_first = 1 + first.length
    end_second = np.where(second.length > 0, end_first + 1 + second.length, end_first)
    assert end_second.max(initial=0) < sequence_length, "a pair is longer than the sequence"
    in_second = column > end_first[:, None]
    source = np.where(in_second, (second.start - end_first - 1)[:, None], (first.start - 1)[:, None])
    source += column
    row = tokens.take(source, mode="clip")
    padding = column > end_second[:, None]
    np.putmask(row, padding, special.pad)
    row[:, 0] = special.cls
    row[rows, end_first] = special.sep
    row[rows, end_second] = special.sep
    in_second &= ~padding
    return row, in_second.astype(np.int64), end_second + 1
