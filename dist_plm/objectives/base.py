"""Declares what an objective is: it turns windows of tokens into model inputs and labels, and scores into sums.

Corruption runs on the host, in the loader's workers, and is a pure function of (seed, sample). Losses are sums, never
means: the engine divides once by the number of predicted tokens of the whole global batch, whatever the grid.

What a microbatch may hold, all int64 except `documents`, which is int32, and `targets`, `label_sets` and `…_soft`, which are
float32:

==============  ========  ==============================================  ==============================================
array           shape     values                                          emitted by
==============  ========  ==============================================  ==============================================
tokens          [B, S]    model input; of the encoder where there are     all
                          two stacks
labels          [B, S]    token to predict, or IGNORED; [B, T] where a    all
                          decoder of its own writes it, [B C, T] where
                          that may be one of C texts
samples         [B]       number of each sample in the run                all
documents       [B, S]    document of each token, 0, 1, …                 all with document_mask
positions       [B, S]    position within the document                    the same, with reset_positions
seen_from       [B, S]    first token that attends to each, all after it  where a decoder reads a prefix both ways
                          do as well; at most its own place, and not
                          before that of the token before it
segments        [B, S]    0 in the first part of a pair, 1 in the second  mlm_nsp, mlm_sop
lengths         [B]       tokens before the padding, which is on the      where rows are padded, without document_mask;
                          right                                           else they are full
pair_labels     [B]       0 as in the text, 1 random (nsp) or swapped     mlm_nsp, mlm_sop
                          (sop), or IGNORED
originals       [B, S]    tokens before corruption, or IGNORED            rtd
decoder_tokens  [B, T]    decoder input: `labels` shifted right           where a decoder of its own writes
class_labels    [B]       class of each sample, or IGNORED                a head over sequences, or the likelihood of C
                                                                          texts
choice_labels   [B / C]   which of C rows that follow each other is       the same, with one label
                          right, or IGNORED
targets         [B]       a number for each sample                        the same, with one label
label_sets      [B, L]    1 for each label that a sample has, else 0      the same
target_mask     [B]       1 where the two above count, else 0             with them
tags            [B, S]    label of each token, or IGNORED                 a head over tokens
twins           [2 B]     0 where two readings of a sample, which follow   a head over sequences, where asked
                          each other, are made to agree, else IGNORED
…_soft          [.., L]   of class_labels, choice_labels or tags: how      the three heads above, where asked
                          much each class is learned
starts, ends    [B]       first and last token of a span, or IGNORED      a head over spans
==============  ========  ==============================================  ==============================================
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from dist_plm.data.samples import Arrays

#: A label that is not predicted: it has no loss, no gradient and no place in the denominator.
IGNORED = -1


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
