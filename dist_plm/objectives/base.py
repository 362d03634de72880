"""Declares what an objective is: it turns windows of tokens into model inputs and labels, and scores into sums.

Corruption runs on the host, in the loader's workers, and is a pure function of (seed, sample). Losses are sums, never
means: the engine divides once by the number of predicted tokens of the whole global batch, whatever the grid.

What a microbatch may hold, all int64 except `documents`, which is int32, and `targets` and `label_sets`, which are float32:

==============  ========  ==============================================  ==============================================
array           shape     values                                          emitted by
==============  ========  ==============================================  ==============================================
tokens          [B, S]    model input; of the encoder where there are     all
                          two stacks
labels          [B, S]    token to predict, or IGNORED; [B, T] where a    all
                          decoder of its own writes it
samples         [B]       number of each sample in the run                all
documents       [B, S]    document of each token, 0, 1, …                 all with document_mask
positions       [B, S]    position within the document                    the same, with reset_positions
seen_from       [B, S]    first token that attends to each, all after it  where a decoder reads a prefix both ways
                          do as well; at most its own place
segments        [B, S]    0 in the first part of a pair, 1 in the second  mlm_nsp, mlm_sop
lengths         [B]       tokens before the padding, which is on the      where rows are padded, without document_mask;
                          right                                           else they are full
pair_labels     [B]       0 as in the text, 1 random (nsp) or swapped     mlm_nsp, mlm_sop
                          (sop), or IGNORED
originals       [B, S]    tokens before corruption, or IGNORED            rtd
decoder_tokens  [B, T]    decoder input: `labels` shifted right           where a decoder of its own writes
class_labels    [B]       class of each sample, or IGNORED                a head over sequences
choice_labels   [B / C]   which of C rows that follow each other is       the same, with one label
                          right, or IGNORED
targets         [B]       a number for each sample                        the same, with one label
label_sets      [B, L]    1 for each label that a sample has, else 0      the same
target_mask     [B]       1 where the two above count, else 0             with them
tags            [B, S]    label of each token, or IGNORED                 a head over tokens
starts, ends    [B]       first and last token of a span, or IGNORED      a head over spans
==============  ========  ==============================================  ==============================================
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray]

#: A label that is not predicted: it has no loss, no gradient and no place in the denominator.
IGNORED = -1


class Windows(Protocol):
    """Declares what the data floor hands out (`sampling.windows`): `tokens` [B, S + 1] int64, `documents` [B, S + 1] int32
    number of each token's document counted from the window's first, `samples` [B] int64.

    It may have `words` [B, S + 1] as well: the number of each token's word, as a word segmenter found them (Chinese).
    Masking of whole words and of spans then goes by these instead of by the vocabulary's continuation tokens.

    It may have `lengths` [B]: rows are padded, and so many of their tokens are text. The padding is a document of its own.
    And then `frame`: rows have room for so many special tokens around each of their documents, rather than around all."""

    @property
    def tokens(self) -> NDArray[np.int64]: ...
    @property
    def documents(self) -> NDArray[np.int32]: ...
    @property
    def samples(self) -> NDArray[np.int64]: ...


class Sentences(Protocol):
    """B runs of consecutive sentences, each run from one document: `tokens` [N] int64 of all runs one after another,
    `ends` [M] int64 where in `tokens` each sentence ends, `runs` [B + 1] int64: run b has the sentences
    runs[b], …, runs[b + 1] - 1. No run and no sentence is empty, and no token is special.

    It may have `words` [N] as well, see Windows."""

    @property
    def tokens(self) -> NDArray[np.int64]: ...
    @property
    def ends(self) -> NDArray[np.int64]: ...
    @property
    def runs(self) -> NDArray[np.int64]: ...


class Pairs(Protocol):
    """Declares what pairs of segments are cut from: `samples` [B] int64, and for each sample two runs of sentences.

    A run goes on until it holds `window_length` tokens or more, or its document ends. `first` begins wherever the
    sampler lets sample n begin; `second` begins at a random sentence of a random other document, both keyed by the
    sample. Only mlm_nsp reads `second`; a sampler for mlm_sop alone leaves it None."""

    @property
    def first(self) -> Sentences: ...
    @property
    def second(self) -> Sentences | None: ...
    @property
    def samples(self) -> NDArray[np.int64]: ...


def words_of(source: Windows | Sentences) -> NDArray[np.int64] | None:
    """Numbers of the tokens' words, where a word segmenter found them."""
    return getattr(source, "words", None)


def lengths_of(windows: Windows) -> NDArray[np.int64] | None:
    """Tokens of each row before its padding, [B]; None where rows are full."""
    return getattr(windows, "lengths", None)


def frame_of(windows: Windows) -> int:
    """Special tokens for which rows have room around each of their documents; 0 where only around all of them."""
    return getattr(windows, "frame", 0)


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One named part of the loss: its sum over all that it predicts, divided by their number in the whole global batch,
    counts `weight` times. It predicts the entries of array `over` that are not IGNORED; with `mask`, an array of 0 and 1 for
    each sample, all entries of the samples that have 1."""

    weight: float
    over: str
    mask: str | None = None

    def count(self, batch: Mapping[str, Any]) -> int:
        """Number of predictions in a microbatch of arrays or tensors."""
        if self.mask is None:
            return int((batch[self.over] != IGNORED).sum())
        return int(batch[self.mask].sum()) * math.prod(batch[self.over].shape[1:])


@dataclass(frozen=True, slots=True)
class Reader:
    """Holds what an objective must know of the model that reads its samples.

    Attributes:
        sequence_length: of the model's input; None where it is not known.
        has_decoder: a decoder of its own writes what is predicted, beside what an encoder reads.
    """

    sequence_length: int | None = None
    has_decoder: bool = False

    @property
    def length(self) -> int:
        """The length of the model's input, for objectives that cannot do without."""
        assert self.sequence_length is not None
        return self.sequence_length


Source = TypeVar("Source", contravariant=True)


class Objective(Protocol[Source]):
    @property
    def source(self) -> Literal["windows", "pairs"]:
        """Names what `collate` takes: Windows or Pairs."""
        ...

    @property
    def losses(self) -> Mapping[str, LossTerm]:
        """The parts of the loss, by the names they are logged under."""
        ...

    def window_length(self, sequence_length: int) -> int:
        """Tokens of text that a sample of model input length `sequence_length` uses up. Windows are read that far apart
        and hold one token more; what an objective adds (`[CLS]`, sentinels) or removes makes the difference."""
        ...

    def collate(self, windows: Source, /) -> Arrays:
        """Arrays of one microbatch, each with B as its first dim; see the table of this module."""
        ...
